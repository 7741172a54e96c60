import { createHash } from "node:crypto";
import type { KubeObject } from "./client.ts";
import { type Reason, reasons } from "./reasons.ts";

/** What an event is about. */
export interface About {
  apiVersion: string;
  kind: string;
  name: string;
  namespace?: string;
  uid?: string;
}

/** What is told. */
export interface Told {
  about: About;
  reason: Reason;
  message: string;
}

/** An event of core/v1. */
export interface Event extends KubeObject {
  count?: number;
}

/** Who tells. */
export interface Source {
  component: string;
  host: string;
}

/** The API server takes no longer message (core/v1 Event validation), bytes. */
const LONGEST_MESSAGE = 1024;
/** Longest name of an object (DNS subdomain), characters. */
const LONGEST_NAME = 253;

/**
 * An event as it is made the first time. Its name says what it says, so that the same said again is the same event.
 * @param key makes the name instead of the message: for what is told once, whatever the words
 */
export function eventOf(told: Told, source: Source, options: { at: Date; key?: string }): Event & { reason: Reason } {
  const { about, reason } = told;
  const message = cut(told.message);
  const { type } = reasons[reason];
  const said = options.key === undefined ? ["said", type, reason, message] : ["once", reason, options.key];
  const at = timeOf(options.at);
  const event = {
    apiVersion: "v1",
    kind: "Event",
    metadata: { name: nameOf(about, said), namespace: namespaceOf(about) },
    involvedObject: about,
    type,
    reason,
    message,
    source,
    reportingComponent: source.component,
    reportingInstance: source.host,
    firstTimestamp: at,
    lastTimestamp: at,
    count: 1,
  };
  return event;
}

/** Where it lies: what is about no namespace lies in "default" (core/v1 Event validation). */
export function namespaceOf(about: About): string {
  return about.namespace || "default";
}

/** RFC 3339 in seconds, as meta/v1 Time is written. */
export function timeOf(at: Date): string {
  return at.toISOString().replace(/\.\d+Z$/, "Z");
}

function nameOf(about: About, said: string[]): string {
  const { kind, namespace = "", name, uid = "" } = about;
  const hash = createHash("sha256").update(JSON.stringify([kind, namespace, name, uid, ...said])).digest("hex");
  const end = `.${hash.slice(0, 16)}`;
  return name.slice(0, LONGEST_NAME - end.length).replace(/[^a-z0-9]+$/, "") + end;
}

/** Cut between characters. */
function cut(message: string): string {
  const bytes = new TextEncoder().encode(message);
  if (bytes.length <= LONGEST_MESSAGE) return message;
  const { read } = new TextEncoder().encodeInto(message, new Uint8Array(LONGEST_MESSAGE - 3));
  return `${message.slice(0, read)}…`;
}

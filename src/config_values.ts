/**
 * How the text of a setting becomes its value. Each throws what is wrong and how to write it; `readConfig` names the
 * setting.
 * @module
 */
import { hostName } from "./volumes/parameters.ts";

export function text(value: string): string {
  return value;
}

/** Something with a name of its own form. @param form whole, as a regular expression */
export function name(form: RegExp, like: string): (value: string) => string {
  return (value) => {
    if (form.test(value)) return value;
    throw new Error(`write a name like ${like}`);
  };
}

/** An IP address or a host name, without a port. */
export function address(value: string): string {
  const problem = hostName(value);
  if (problem === undefined) return value;
  throw new Error(`${problem}, without a port`);
}

export function truth(value: string): boolean {
  if (value === "true" || value === "false") return value === "true";
  throw new Error("write true or false");
}

export function oneOf<const T extends readonly string[]>(...values: T): (value: string) => T[number] {
  return (value) => {
    if (values.includes(value)) return value;
    throw new Error(`write one of ${values.join(", ")}`);
  };
}

export function whole(least: number, most: number): (value: string) => number {
  return (value) => {
    if (/^\d{1,12}$/.test(value) && Number(value) >= least && Number(value) <= most) return Number(value);
    throw new Error(`write a whole number from ${least} to ${most}`);
  };
}

export function decimal(least: number, most: number): (value: string) => number {
  return (value) => {
    if (/^\d+(\.\d+)?$/.test(value) && Number(value) >= least && Number(value) <= most) return Number(value);
    throw new Error(`write a number from ${least} to ${most}, like 1.5`);
  };
}

/** Milliseconds. */
export function duration(value: string): number {
  const unit = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };
  const parts = /^(?:\d+(?:\.\d+)?(?:ms|s|m|h))+$/.test(value) ? value.matchAll(/([\d.]+)(ms|s|m|h)/g) : [];
  const sum = [...parts].reduce((sum, [, digits, name]) => sum + Number(digits) * unit[name as keyof typeof unit], 0);
  if (sum > 0 && sum <= 24 * unit.h) return sum;
  throw new Error("write a time over 0 and up to 24h, like 500ms, 10s or 2m");
}

export function bytes(value: string): bigint {
  const [, digits, unit] = /^(\d{1,16})(?:([KMGT])(?:i?B)?)?$/.exec(value) ?? [];
  if (digits !== undefined) return BigInt(digits) << BigInt(10 * (unit ? " KMGT".indexOf(unit) : 0));
  throw new Error("write a number of bytes, or with a binary unit like 100G");
}

export function list<T>(item: (value: string) => T): (value: string) => T[] {
  return (value) => value === "" ? [] : value.split(",").map((part) => item(part.trim()));
}

export function hostAndPort(value: string): { host: string; port: number } {
  const [, host, port] = /^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]*):(\d{1,5})$/.exec(value) ?? [];
  if (host !== undefined && Number(port) <= 65535) return { host: host.replace(/^\[|\]$/g, ""), port: Number(port) };
  throw new Error("write an address and a port, like :9809 or 127.0.0.1:9809");
}

export function unixSocket(value: string): string {
  const path = value.replace(/^unix:(\/\/)?/, "");
  if (path.startsWith("/")) return path;
  throw new Error("write unix:// and an absolute path, like unix:///run/csi.sock");
}

export function absolute(value: string): string {
  if (value.startsWith("/")) return value;
  throw new Error("write an absolute path");
}

/** Nothing written means undefined. */
export function optional<T>(parse: (value: string) => T): (value: string) => T | undefined {
  return (value) => value === "" ? undefined : parse(value);
}

/** `name=value` pairs, separated by commas. */
export function pairs(value: string): Record<string, string> {
  const parts = value === "" ? [] : value.split(",").map((part) => /^([A-Za-z][A-Za-z ]*)=(.+)$/.exec(part.trim()));
  if (parts.every((part) => part !== null)) return Object.fromEntries(parts.map((part) => [part[1], part[2]]));
  throw new Error("write name=value, several separated by commas");
}

/** What Kubernetes says with a status of HTTP. */
export const reasons: Readonly<Record<number, string>> = {
  403: "Forbidden",
  404: "NotFound",
  409: "Conflict",
  410: "Expired",
  429: "TooManyRequests",
  500: "InternalError",
  503: "ServiceUnavailable",
};

/** A refusal in the API server's form. */
export function statusAnswer(code: number, reason: string, message: string): Response {
  const headers = { "content-type": "application/json", ...(code === 429 ? { "retry-after": "1" } : {}) };
  return new Response(JSON.stringify(statusObject(code, reason, message)), { status: code, headers });
}

/** The line that ends a watch with an error. */
export function errorEvent(code: number): string {
  const object = statusObject(code, reasons[code] ?? "", "too old resource version");
  return `${JSON.stringify({ type: "ERROR", object })}\n`;
}

function statusObject(code: number, reason: string, message: string): object {
  return { kind: "Status", apiVersion: "v1", metadata: {}, status: "Failure", message, reason, code };
}

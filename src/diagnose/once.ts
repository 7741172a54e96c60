/** The first answer, or rejection, for all who ask. */
export function once<A extends unknown[], T>(ask: (...args: A) => T): (...args: A) => T {
  let kept: { answer: T } | undefined;
  return (...args) => (kept ??= { answer: ask(...args) }).answer;
}

/** The folder of the project. */
export const project = new URL("../../", import.meta.url);

/** The path of a `file:` URL. */
export function fromFileUrl(url: URL): string {
  return decodeURIComponent(url.pathname);
}

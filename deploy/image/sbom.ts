import manifest from "../../deno.json" with { type: "json" };

/** A package of an SPDX document (SPDX 2.3, clause 7), the part of it that is written. */
interface SpdxPackage {
  SPDXID: string;
  name: string;
  versionInfo: string;
  downloadLocation: "NOASSERTION";
  filesAnalyzed: false;
  externalRefs: { referenceCategory: "PACKAGE-MANAGER"; referenceType: "purl"; referenceLocator: string }[];
}

/**
 * What the image is made of, as an SPDX 2.3 document: Debian's packages that files are from, npm's packages of the lock
 * file, Deno, and the program.
 * @param packages lines of name, version and architecture, with tabs between
 * @param lock the text of deno.lock, version 5
 */
export function billOfMaterials(packages: string, lock: string): object {
  const debian = packages.split("\n").filter((line) => line !== "").map((line) => {
    const [name = "", version = "", architecture = ""] = line.split("\t");
    return spdx(name, version, `pkg:deb/debian/${name}@${encodeURIComponent(version)}?arch=${architecture}`);
  });
  const npm = Object.keys((JSON.parse(lock) as { npm: Record<string, unknown> }).npm).map((key) => {
    // `@scope/name@1.2.3_peer@4.5.6`
    const [, name = "", version = ""] = /^(@?[^@]+)@([^_]+)/.exec(key) ?? [];
    return spdx(name, version, `pkg:npm/${name.replace("@", "%40")}@${version}`);
  });
  const all = [
    spdx("rds-csi", manifest.version, `pkg:generic/rds-csi@${manifest.version}`),
    spdx("deno", Deno.version.deno, `pkg:generic/deno@${Deno.version.deno}`),
    ...debian,
    ...npm,
  ];
  const once = [...new Map(all.map((each) => [each.SPDXID, each])).values()];
  return {
    spdxVersion: "SPDX-2.3",
    dataLicense: "CC0-1.0",
    SPDXID: "SPDXRef-DOCUMENT",
    name: `rds-csi-${manifest.version}`,
    documentNamespace: `urn:rds-csi:${manifest.version}`,
    // The same sources give the same document.
    creationInfo: { created: "1970-01-01T00:00:00Z", creators: ["Tool: rds-csi"] },
    packages: once,
    relationships: once.map(({ SPDXID }) => ({
      spdxElementId: "SPDXRef-DOCUMENT",
      relationshipType: "DESCRIBES",
      relatedSpdxElement: SPDXID,
    })),
  };
}

function spdx(name: string, version: string, purl: string): SpdxPackage {
  return {
    SPDXID: `SPDXRef-${purl.slice(4).replaceAll(/[^A-Za-z0-9.-]+/g, "-")}`,
    name,
    versionInfo: version,
    downloadLocation: "NOASSERTION",
    filesAnalyzed: false,
    externalRefs: [{ referenceCategory: "PACKAGE-MANAGER", referenceType: "purl", referenceLocator: purl }],
  };
}

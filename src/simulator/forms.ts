import type { Forms } from "./syntax.ts";

const words = (text: string) => text.split(" ");

const find = { where: "bare" } as const;
const print = {
  where: "word",
  named: ["proplist"],
  flags: words("detail as-value count-only terse without-paging brief"),
} as const;
const get = { named: words("value-name number"), unnamed: 2 };
const remove = { named: ["numbers"], unnamed: 1 };
const one = { unnamed: 1 };

/** What both `/disk/add` and `/disk/set` take. */
const settings = words(
  "slot comment file-size mount-filesystem mount-read-only nvme-tcp-export nvme-tcp-server-port nvme-tcp-server-nqn " +
    "nvme-tcp-server-allow-host-name",
);

/** The commands that the simulator has: everything else is a `bad command name`. */
export const commands: Forms = {
  "": {
    put: one,
    delay: one,
    len: one,
    tostr: one,
    tonum: one,
    typeof: one,
    error: one,
    local: { unnamed: 2 },
    set: { unnamed: 2 },
    if: { unnamed: 1, named: ["do", "else"] },
    do: { unnamed: 1, named: ["on-error"] },
    onerror: { unnamed: 1, named: ["in", "do"] },
    foreach: { unnamed: 1, named: ["in", "do"] },
    serialize: { named: ["to", "value", "options"] },
  },
  "disk": {
    find,
    print,
    get,
    remove,
    add: { named: ["type", "file-path", ...settings] },
    set: { named: ["numbers", ...settings], unnamed: 1 },
    "monitor-traffic": { unnamed: 1, flags: ["once"] },
  },
  "disk/btrfs/subvolume": { find, print, get, remove, add: { named: words("fs name parent read-only") } },
  "file": { find, print, get, remove },
  "system/resource": { print, get: { ...get, unnamed: 1 } },
  "system/package": { find, print, get },
};

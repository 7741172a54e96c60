import { Commands } from "../../../src/runtime/command.ts";
import { cached } from "../cache.ts";
import { hasProgram, needPrograms } from "../debian.ts";
import { print } from "../layer.ts";

/** What a machine is started from. Paths of files in the tests' cache. */
export interface GuestKernel {
  /** What QEMU starts: the uncompressed kernel, which saves a machine's start some 3 s of emulated unpacking. */
  kernel: string;
  initramfs: string;
  /** The folder that belongs at `/lib/modules/<release>` in the guest. */
  modules: string;
  release: string;
  /** The path of busybox, linked statically. */
  busybox: string;
}

/** Programs that machines need on the host, which is their root too, by Debian's packages. */
const programs = {
  "qemu-system-x86_64": "qemu-system-x86",
  "busybox": "busybox-static",
  "modprobe": "kmod",
  "cpio": "cpio",
  "xz": "xz-utils",
  "setpriv": "util-linux",
  "ip": "iproute2",
  "nvme": "nvme-cli",
  "losetup": "util-linux",
  "mkfs.ext4": "e2fsprogs",
  "mkfs.xfs": "xfsprogs",
  "wipefs": "util-linux",
  "blkid": "util-linux",
  "cmp": "diffutils",
  "timeout": "coreutils",
};

/** What a guest needs to reach its root. Everything else it finds there. */
const forRoot = ["virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_net"];

const commands = new Commands();
const HOW = "machines start from Debian's kernel: use Debian 12 (a container will do)";

/** Why no machines can be started here, and what to do; `undefined` when all is there now. */
export async function whyNoMachines(): Promise<string | undefined> {
  if (Deno.build.os !== "linux" || Deno.build.arch !== "x86_64") return "the machines are emulated on Linux on x86_64";
  if (Deno.uid() !== 0) return "the machines read the whole of the host's root: run as root, in a container";
  return await needPrograms(programs) ?? await guestKernel().then(() => undefined, String);
}

/** Debian's kernel with its modules and an initramfs, each made once. @throws when Debian's packages cannot be had */
export async function guestKernel(): Promise<GuestKernel> {
  if (!await hasProgram("apt-get")) throw new Error(HOW);
  const name = await packageName() ?? (await run("apt-get", "-q", "update"), await packageName());
  if (!name) throw new Error(`there is no package linux-image-amd64 here: ${HOW}`);
  const version = await versionOf(name);
  const release = name.slice("linux-image-".length);
  const kernel = await cached({ name: "guest-kernel", version }, (folder) => unpack(folder, name, release));
  const folder = kernel.slice(0, kernel.lastIndexOf("/"));
  const init = await Deno.readTextFile(new URL("init.sh", import.meta.url));
  const key = await digest([version, init, ...forRoot].join("\n"));
  const initramfs = await cached(
    { name: "guest-initramfs", version: key },
    (building) => makeInitramfs(building, { init, kernelFolder: folder, release }),
  );
  const busybox = (await run("sh", "-c", "command -v busybox")).trim();
  return { kernel, initramfs, modules: `${folder}/lib/modules/${release}`, release, busybox };
}

/** The package that Debian's kernel is in now. */
async function packageName(): Promise<string | undefined> {
  const { stdout } = await commands.run("apt-cache", ["depends", "linux-image-amd64"], { deadline: 60_000 });
  return /Depends: (linux-image-\S+)/.exec(stdout)?.[1];
}

async function versionOf(name: string): Promise<string> {
  const policy = await run("apt-cache", "policy", name);
  const version = /Candidate: (?!\(none\))(\S+)/.exec(policy)?.[1];
  if (!version) throw new Error(`Debian has no package ${name} here: ${HOW}`);
  return version;
}

async function unpack(folder: string, name: string, release: string): Promise<void> {
  print(`Unpacking Debian's package ${name}, once\n`);
  const download = () => run("env", "-C", folder, "apt-get", "-q", "download", name);
  // Lists that are old name files that the server has no longer.
  await download().catch(() => run("apt-get", "-q", "update").then(download));
  const [file] = [...Deno.readDirSync(folder)].filter((entry) => entry.name.endsWith(".deb"));
  await run("dpkg", "-x", `${folder}/${file?.name}`, `${folder}/unpacked`);
  await Deno.mkdir(`${folder}/bin/lib/modules`, { recursive: true });
  await Deno.rename(`${folder}/unpacked/lib/modules/${release}`, `${folder}/bin/lib/modules/${release}`);
  await unsign(`${folder}/bin/lib/modules/${release}`);
  await run("depmod", "-b", `${folder}/bin`, release);
  await uncompress(`${folder}/unpacked/boot/vmlinuz-${release}`, `${folder}/bin/guest-kernel`);
}

const SIGNED = "~Module signature appended~\n";

/** Takes the signatures off modules: the kernel asks for none and takes long to check one (scripts/sign-file.c). */
async function unsign(folder: string): Promise<void> {
  for await (const { name, isDirectory } of Deno.readDir(folder)) {
    if (isDirectory) await unsign(`${folder}/${name}`);
    else if (name.endsWith(".ko")) await unsignModule(`${folder}/${name}`);
  }
}

async function unsignModule(path: string): Promise<void> {
  const bytes = await Deno.readFile(path);
  const text = new TextDecoder().decode(bytes.subarray(-SIGNED.length));
  if (text !== SIGNED) return;
  // struct module_signature, whose last four bytes are the length of what is before it.
  const end = bytes.length - SIGNED.length;
  const length = new DataView(bytes.buffer).getUint32(end - 4);
  await Deno.truncate(path, end - 12 - length);
}

/** Takes the kernel itself out of a bzImage (Documentation/x86/boot.rst: setup_sects, payload_offset, payload_length). */
async function uncompress(from: string, to: string): Promise<void> {
  const image = await Deno.readFile(from);
  const header = new DataView(image.buffer);
  const start = (header.getUint8(0x1f1) + 1) * 512 + header.getUint32(0x248, true);
  const payload = image.subarray(start, start + header.getUint32(0x24c, true));
  await Deno.writeFile(`${to}.xz`, payload);
  // Its length follows the compressed kernel, which xz takes for something broken after the end.
  await commands.run("sh", ["-c", 'xz -dc "$0" >"$1" 2>/dev/null', `${to}.xz`, to], { deadline: 120_000 });
  const magic = new TextDecoder().decode((await Deno.readFile(to)).subarray(1, 4));
  if (magic !== "ELF") throw new Error(`the kernel in ${from} is not compressed with xz: ${HOW}`);
  await Deno.remove(`${to}.xz`);
}

async function makeInitramfs(
  folder: string,
  { init, kernelFolder, release }: { init: string; kernelFolder: string; release: string },
): Promise<void> {
  const root = `${folder}/root`;
  for (const name of ["bin", "modules", "proc", "sys", "dev", "host", "upper", "root"]) {
    await Deno.mkdir(`${root}/${name}`, { recursive: true });
  }
  await Deno.copyFile((await run("sh", "-c", "command -v busybox")).trim(), `${root}/bin/busybox`);
  await Deno.symlink("busybox", `${root}/bin/sh`);
  const needed = await Promise.all(forRoot.map((name) => filesOf(name, kernelFolder, release)));
  const files = [...new Set(needed.flat())];
  for (const file of files) await Deno.copyFile(file, `${root}/modules/${baseName(file)}`);
  await Deno.writeTextFile(`${root}/modules/list`, files.map(baseName).join("\n"));
  await Deno.writeTextFile(`${root}/init`, init, { mode: 0o755 });
  await run("sh", "-c", 'cd "$0" && find . | cpio --quiet -o -H newc >"$1"', root, `${folder}/bin/guest-initramfs`);
}

/** The files of a module and of those that it needs, in the order of loading. */
async function filesOf(module: string, folder: string, release: string): Promise<string[]> {
  const text = await run("modprobe", "-d", folder, "-S", release, "--show-depends", module);
  return [...text.matchAll(/^insmod (\S+)/gm)].map(([, file]) => file ?? "");
}

function baseName(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

async function digest(text: string): Promise<string> {
  const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text)));
  return bytes.toHex().slice(0, 16);
}

async function run(program: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await commands.run(program, args, { deadline: 300_000 });
  if (code !== 0) throw new Error(`${program} ${args.join(" ")} failed: ${stderr || stdout}`);
  return stdout;
}

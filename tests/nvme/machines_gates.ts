import type { NodeMachine } from "../lab/machines/node_machine.ts";
import { patient } from "../lab/machines/patience.ts";
import { until } from "./machines_steps.ts";

/** What the driver runs to stage, publish and unstage. */
const programs = ["nvme", "blkid", "mke2fs", "mkfs.ext4", "mkfs.xfs", "mount", "umount", "mknod"] as const;
export type Gated = typeof programs[number];

/**
 * Where one run of a program is held: before it begins, when it has written so many bytes, or when it has ended. `half`, for
 * mkfs.ext4: when there is something and no superblock, as it writes those last and too fast to be stopped between.
 */
export interface Hold {
  when: "before" | "half" | "after" | number;
  /** Only a run whose arguments have this text. */
  having?: string;
}

const folder = "/run/gates";
let count = 0;

/** Stands before the program itself, which it becomes at once when no gate is for it. It polls without making processes. */
function standIn(program: string, real: string): string {
  return `#!/bin/bash
shopt -s extglob
for gate in ${folder}/${program}-+([0-9]); do
  read -r when having 2>/dev/null < $gate && [[ " $* " == *"$having"* ]] && mkdir $gate.reached 2>/dev/null && break
  gate=
done
hold() { : > $gate.reached/now; while [ -e $gate ]; do read -rt 0.1 <> ${folder}/never; done; }
written() { while read -r key value; do [[ $key == wchar: && $value -ge $when ]] && return 0; done < /proc/$pid/io; return 1; }
case $gate:$when in
:*) exec ${real} "$@" ;;
*:before) hold; exec ${real} "$@" ;;
*:half)
  disk="\${!#}"; image=${folder}/half.img; truncate -s $(blockdev --getsize64 $disk) $image
  ${real} "\${@:1:$#-1}" $image; dd if=$image of=$disk bs=4096 skip=1 seek=1 count=256 conv=notrunc,fsync status=none
  hold; exit 1 ;;
*:after) ${real} "$@"; code=$?; hold; exit $code ;;
*) ${real} "$@" & pid=$!
  until written; do kill -0 $pid || exit 99; read -rt 0.002 <> ${folder}/never; done
  kill -STOP $pid; hold; kill -CONT $pid; wait $pid ;;
esac
`;
}

/** A place where one run of a program is held until it is opened. */
export interface Gate {
  /** Waits until a program is held there. */
  reached(): Promise<void>;
  open(): Promise<void>;
}

/** Gates around the programs that a node's agent runs, so that it can be killed at a certain place of a call. */
export class Gates {
  readonly #node: NodeMachine;

  private constructor(node: NodeMachine) {
    this.#node = node;
  }

  /** Puts them there, unless they are. The agent is started anew: it knows the programs' paths since its start. */
  static async install(node: NodeMachine): Promise<Gates> {
    const { guest } = node.machine;
    if ((await guest.run("test", ["-e", `${folder}/never`])).code === 0) return new Gates(node);
    const paths = await guest.sh(`mkdir -p ${folder}; mkfifo ${folder}/never; which ${programs.join(" ")}`);
    const reals = paths.split("\n");
    await Promise.all(programs.map(async (program, at) => {
      await guest.writeFile(`/usr/local/sbin/${program}`, standIn(program, reals[at] ?? ""));
    }));
    await guest.quick(programs.map((program) => `chmod 755 /usr/local/sbin/${program}`).join("; "));
    await node.killAgent("SIGTERM");
    await node.startAgent();
    return new Gates(node);
  }

  /** Holds one of the next runs of a program. */
  async hold(program: Gated, { when, having = "" }: Hold): Promise<Gate> {
    const { guest } = this.#node.machine;
    const gate = `${folder}/${program}-${++count}`;
    await guest.quick(`echo '${when} ${having}' > ${gate}.new; mv ${gate}.new ${gate}`);
    const what = `a ${program} ${having} on ${this.#node.name} to be held (${when})`;
    return {
      reached: async () =>
        void await until(what, async () => {
          return (await guest.run("busybox", ["test", "-e", `${gate}.reached/now`])).code === 0 || undefined;
        }, patient(90_000)),
      open: async () => void await guest.quick(`rm ${gate}`),
    };
  }
}

/**
 * Kills the node's agent as it is. As in a container what it has started goes with it, to the last one; `orphans`: that
 * goes on by itself.
 */
export async function crash(node: NodeMachine, { orphans = false } = {}): Promise<void> {
  const { pid } = await node.agent.state();
  const children = orphans ? "" : 'while level=$(pgrep -d, -P $level); do all="$all,$level"; done;';
  await node.machine.guest.sh(
    `kill -STOP ${pid}; all=${pid}; level=${pid}; ${children} kill -KILL $(echo $all | tr , ' ')`,
  );
  await node.agent.ended();
}

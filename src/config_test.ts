import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { type CommandName, commands } from "./config_commands.ts";
import { commandHelp, helpText } from "./config_help.ts";
import { settings } from "./config.ts";
import { readConfig, type Request, withoutEffect } from "./config_read.ts";

const env = { CSI_MANAGED_NQN_PREFIX: "nqn.2000-02.com.mikrotik:pvc-" };

function problems(request: Request): string[] {
  return request.kind === "wrong" ? request.problems : [];
}

function run(args: string[], more: Record<string, string> = {}): Request & { kind: "run" } {
  const request = readConfig(args, { ...env, ...more });
  assert(request.kind === "run", problems(request).join("\n"));
  return request;
}

Deno.test("readConfig() takes flags before environment variables before defaults", () => {
  const args = ["--mode=controller", "--rds-address", "10.0.0.1", "-rds-user=csi"];
  const { config } = run(args, { RDS_CSI_RDS_PORT: "2222", RDS_CSI_RDS_USER: "other" });
  assertEquals(config.rdsAddress, "10.0.0.1");
  assertEquals(config.rdsUser, "csi");
  assertEquals(config.rdsPort, 2222);
  assertEquals(config.rdsVolumeBasePath, "storage-pool/metal-csi");
  assertEquals(config.rdsCreateDeadline, 30_000);
  assertEquals(config.socketGroup, undefined);
});

Deno.test("readConfig() reports everything that is wrong at once, each with WHAT and HOW", () => {
  const args = [
    "--mode=controller",
    "--rds-port=0",
    "--nonsense",
    "extra",
    "--rds-create-deadline=5",
    "--capacity-ratio=x",
  ];
  const found = problems(readConfig(args, { CSI_MANAGED_NQN_PREFIX: "nqn.x:nixos-" }));
  const expected = [
    /--nonsense is unknown: '--help'/,
    /'extra' is unknown/,
    /CSI_MANAGED_NQN_PREFIX='nqn.x:nixos-' is wrong: .*nixos/,
    /--rds-address .*is required with --mode=controller/,
    /--rds-port='0' is wrong: write a whole number from 1 to 65535/,
    /--rds-create-deadline='5' is wrong: write a time/,
    /--capacity-ratio='x' is wrong: write a number/,
  ];
  assertEquals(found.length, expected.length, found.join("\n"));
  for (const pattern of expected) {
    assert(found.some((problem) => pattern.test(problem)), `${pattern}\n${found.join("\n")}`);
  }
});

Deno.test("readConfig() refuses to start controller and node without a managed NQN prefix", () => {
  for (const args of [["--mode=controller", "--rds-address=a"], ["--mode=node", "--node-id=n"]]) {
    const [problem, ...others] = problems(readConfig(args, {}));
    assertEquals(others, []);
    assertMatch(problem ?? "", /CSI_MANAGED_NQN_PREFIX\) is required/);
  }
});

Deno.test("readConfig() takes a mode that does not exist for a mistake", () => {
  assertMatch(
    problems(readConfig(["--mode=agent"], env)).join(),
    /--mode=controller or --mode=node or --mode=simulator/,
  );
});

Deno.test("readConfig() checks names, addresses and the flags of other modes too", () => {
  const good = ["--mode=controller", "--rds-address=10.0.0.1"];
  const cases: [string[], RegExp][] = [
    [
      ["--rds-address=10.0.0.1:22"],
      /--rds-address='10.0.0.1:22' is wrong: give an IP address or a host name, without a port/,
    ],
    [["--rds-user=x y"], /--rds-user/],
    [["--driver-name=not a name!"], /--driver-name/],
    [[`--rds-volume-base-path=/pool/${"x".repeat(300)}`], /--rds-volume-base-path.*200 characters at most/],
    [["--standalone-nodes=a,,b"], /--standalone-nodes/],
    [["--mkfs-deadline=bogus"], /--mkfs-deadline='bogus' is wrong/],
    [["--mode=bogus"], /the mode 'bogus' is not one/],
    [["--node"], /the mode 'controller' and 'node' is not one/],
  ];
  for (const [args, pattern] of cases) {
    assert(problems(readConfig([...good, ...args], env)).some((problem) => pattern.test(problem)), args.join(" "));
  }
});

Deno.test("readConfig() understands the Go driver's command line, and warns of what has no effect", () => {
  const args = [
    "-controller",
    "-rds-address=10.0.0.1",
    "-v=5",
    "--orphan-dry-run=true",
    "--attachment-grace-period=30s",
  ];
  const { mode, warnings } = run(args);
  assertEquals(mode, "controller");
  assertEquals(warnings.length, 3);
  assert(warnings.every((warning) => warning.includes("has no effect: ")));
  assertEquals(run(["-node", "-node-id=n1"]).mode, "node");
});

Deno.test("every flag of the Go driver is known", () => {
  const flags =
    "endpoint node-id driver-name controller node rds-address rds-port rds-user rds-key-file rds-host-key " +
    "rds-insecure-skip-verify rds-volume-base-path enable-orphan-reconciler orphan-check-interval orphan-grace-period " +
    "orphan-dry-run attachment-grace-period attachment-reconcile-interval enable-vmi-serialization vmi-cache-ttl " +
    "kubeconfig metrics-address version";
  const known = [...Object.values(settings).map((setting) => setting.flag), ...Object.keys(withoutEffect)];
  known.push("controller", "node", "version");
  for (const flag of flags.split(" ")) assert(known.includes(flag), flag);
});

Deno.test("helpText() names every setting with its default and environment variable", () => {
  const help = helpText("1.0.0");
  for (const setting of Object.values(settings)) {
    assertStringIncludes(help, `--${setting.flag}\n`);
    assertStringIncludes(help, setting.env);
  }
});

Deno.test("readConfig() answers --help and --version whatever else is wrong", () => {
  assertEquals(readConfig(["--nonsense", "--help"], {}).kind, "help");
  assertEquals(readConfig(["--version"], {}).kind, "version");
});

function asked(args: string[], more: Record<string, string> = {}): Request & { kind: "command" } {
  const request = readConfig(args, { ...env, ...more });
  assert(request.kind === "command", problems(request).join("\n"));
  return request;
}

Deno.test("readConfig() finds the command that words name, with settings from the same table", () => {
  const { command, config } = asked(["diagnose", "controller", "--output=json", "--rds-port", "2222"], {
    RDS_CSI_RDS_ADDRESS: "10.0.0.1",
  });
  assertEquals(command, "diagnose controller");
  assertEquals([config.output, config.rdsAddress, config.rdsPort], ["json", "10.0.0.1", 2222]);
  assertEquals(asked(["--node-id=n1", "prestop"]).command, "prestop");
});

Deno.test("readConfig() lets a command go on with what is wrong in the environment, and tells it; a wrong flag ends it", () => {
  const wrong = { CSI_MANAGED_NQN_PREFIX: "nonsense", RDS_CSI_RDS_PORT: "x", RDS_CSI_PROC_ROOT: "proc" };
  const { config, problems: told } = asked(["diagnose", "--mode=node"], wrong);
  assertEquals(config.managedNqnPrefix as string | undefined, undefined);
  assertEquals(config.procRoot, "/host/proc");
  assertEquals(told.length, 2, "the port is none of its settings");
  assertMatch(problems(readConfig(["diagnose", "--proc-root=proc"], env)).join(), /^--proc-root='proc' is wrong/);
  assertMatch(problems(readConfig(["diagnose", "--nonsense"], env)).join(), /^--nonsense is unknown/);
  assertMatch(problems(readConfig(["prestop"], env)).join(), /^--node-id .*required with 'prestop'/);
  assertMatch(problems(readConfig(["diagnose", "everything"], env)).join(), /^'diagnose everything' is unknown/);
});

Deno.test("commandHelp() names every setting that the command reads", () => {
  for (const [name, { settings: used }] of Object.entries(commands)) {
    const help = commandHelp(name as CommandName, { version: "1.0.0", more: [] });
    for (const each of used) assertStringIncludes(help, `--${settings[each].flag}\n`);
    assertEquals(readConfig([...name.split(" "), "--help"], {}), { kind: "help", command: name as CommandName });
  }
});

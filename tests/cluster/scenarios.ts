import { whyNoGo } from "../lab/go_tools.ts";
import { whyNoImage } from "../lab/image.ts";
import { type PodCluster, startPodCluster } from "../lab/cluster/pod_cluster.ts";
import { whyNoContainers } from "../lab/cluster/containers.ts";
import { whyNoMachines } from "../lab/machines/kernel.ts";
import { type ScenarioOn, scenariosOn } from "../nvme/machines_scenarios.ts";

const missing = await whyNoMachines() ?? await whyNoGo() ?? await whyNoContainers() ?? await whyNoImage();

/** A test on the one cluster that all files of this folder share when they run together. */
export const scenario: ScenarioOn<PodCluster> = scenariosOn(startPodCluster, missing);

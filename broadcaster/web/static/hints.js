// What to do where there is nothing to see yet.

import { ask } from "./api.js";
import { el } from "./dom.js";

const code = (text) => el("pre", { tabindex: "0" }, el("code", {}, text));

async function url() {
  const told = await ask("/v1/address").catch(() => ({ host: null, data_port: 5552 }));
  return `tcp://${told.host ?? location.hostname}:${told.data_port}`;
}

// Fills `node` once.
export async function howToPublish(node, namespace, model = "policy") {
  if (node.dataset.filled) return;
  node.dataset.filled = "yes";
  const place = await url();
  const [within, option] = namespace === "default" ? ["", ""] : [`, namespace="${namespace}"`, ` --namespace ${namespace}`];
  node.append(
    el("h2", {}, "Nothing has been published yet"),
    el("p", {}, "Publish from the program that learns:"),
    code(`from clients import connect\n\nwith connect("${place}"${within}) as client:\n    client.publisher("${model}").publish(model.state_dict())`),
    el("p", {}, "or a file from the command line:"),
    code(`broadcaster publish weights.safetensors --model ${model} --url ${place}${option}`),
    el("p", { class: "note" }, "The first version appears here as soon as it is there."),
  );
}

// The page: pictures in, probabilities and maps out.

import * as ort from "./ort.wasm.bundle.min.mjs";
import { mirror, readPixels } from "./pixels.js";

const here = (name) => new URL(name, import.meta.url).href;
const find = (id) => document.getElementById(id);

let about, session; // model.json, and the network
let asked = 0; // pictures so far, so that a late answer does not replace a newer one
let pixels, name; // of the picture that is shown, and what to call it
let map; // of that picture, for each class
let failure = ""; // why the network could not be loaded

await start().catch((error) => {
  find("loading").hidden = true;
  failure = `The network could not be loaded (${error.message}). Reload the page to try again.`;
  report(failure);
});

async function start() {
  about = await (await get("model.json")).json();
  find("classes").textContent = about.class_names.join(", ");
  find("mirrored").hidden = !about.mirror;
  const strip = await createImageBitmap(await (await get("examples.png")).blob());
  listen();
  session = load();
  const examples = addExamples(strip);
  await session;
  find("loading").hidden = true;
  if (!asked) examples[0].click();
}

async function get(file) {
  const response = await fetch(here(file));
  if (!response.ok) throw new Error(`${file}: ${response.status} ${response.statusText}`);
  return response;
}

/** Download the network and what computes it, and show how far that is. */
async function load() {
  const sizes = Object.values(about.bytes);
  let loaded = 0;
  const contents = Object.keys(about.bytes).map(async (file) => {
    const chunks = [];
    for (const reader = (await get(file)).body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) return new Uint8Array(await new Blob(chunks).arrayBuffer());
      chunks.push(value);
      loaded += value.length;
      find("progress").value = loaded / sizes.reduce((a, b) => a + b);
    }
  });
  const [model, runtime] = await Promise.all(contents);
  ort.env.wasm.wasmBinary = runtime;
  ort.env.wasm.numThreads = 1; // Threads need headers that few hosts of static files send.
  return ort.InferenceSession.create(model);
}

function listen() {
  const demo = find("demo");
  find("file").addEventListener("change", ({ target }) => {
    if (target.files.length) show(target.files[0], target.files[0].name);
    target.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("paste", ({ clipboardData }) => showFirst(clipboardData, "the pasted picture"));
  document.addEventListener("dragover", (event) => {
    event.preventDefault(); // or else the browser would open the file
    demo.classList.add("demo-over");
  });
  document.addEventListener("dragleave", () => demo.classList.remove("demo-over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    demo.classList.remove("demo-over");
    showFirst(event.dataTransfer, "the dropped picture");
  });
  find("mirror").addEventListener("change", () => pixels && classify());
  if (navigator.mediaDevices) listenToCamera();
}

function showFirst({ files }, called) {
  if (files.length) show(files[0], files[0].name || called);
}

function listenToCamera() {
  const [button, viewfinder, video, shoot] = ["camera", "viewfinder", "video", "shoot"].map(find);
  button.hidden = false;
  button.addEventListener("click", async () => {
    report(failure);
    button.disabled = true;
    try {
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      button.disabled = false;
      return report(`The camera cannot be used (${error.message}).`);
    }
    viewfinder.hidden = false;
  });
  video.addEventListener("loadeddata", () => {
    shoot.disabled = false;
    shoot.focus();
  });
  const stop = () => {
    video.srcObject?.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
    viewfinder.hidden = shoot.disabled = true;
    button.disabled = false;
    button.focus();
  };
  find("stop").addEventListener("click", stop);
  shoot.addEventListener("click", () => {
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    canvas.getContext("2d").drawImage(video, 0, 0);
    stop();
    show(canvas.convertToBlob(), "the camera's picture");
  });
}

/** Add a button for each example of the strip, and return the buttons. */
function addExamples(strip) {
  const count = strip.width / strip.height;
  return Array.from({ length: count }, (_, at) => {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = strip.height;
    canvas.getContext("2d").drawImage(strip, -at * strip.height, 0);
    const button = document.createElement("button");
    button.type = "button";
    button.title = `a test image: ${about.examples[at]}`;
    button.setAttribute("aria-label", button.title);
    button.append(canvas);
    const file = new Promise((resolve) => canvas.toBlob(resolve));
    button.addEventListener("click", () => show(file, button.title, button));
    find("examples").append(button);
    return button;
  });
}

/** Classify an image file, or a promise of one, and show the result. */
async function show(file, called, button) {
  const mine = ++asked;
  report(failure);
  if (failure) return;
  find("demo").setAttribute("aria-busy", true);
  for (const other of find("examples").children) other.setAttribute("aria-pressed", other === button);
  const read = await readPixels(await file, about.image_size).catch(() => null);
  if (mine !== asked) return;
  if (read) {
    [pixels, name] = [read, called];
    return classify().catch(() => find("demo").setAttribute("aria-busy", false)); // `start` reports why
  }
  report(`This browser cannot open ${called} as a picture. JPEG, PNG, WebP, GIF and BMP work.`);
  find("demo").setAttribute("aria-busy", false);
}

/** Compute the answer for `pixels`, as the mean over both views if the switch is on. */
async function classify() {
  find("demo").setAttribute("aria-busy", true);
  const size = about.image_size;
  const views = find("mirror").checked ? [pixels, mirror(pixels, size)] : [pixels];
  const data = new Uint8Array(views.length * pixels.length);
  views.forEach((view, at) => data.set(view, at * pixels.length));
  const network = await session;
  const start = performance.now();
  const images = new ort.Tensor("uint8", data, [views.length, size, size, 3]);
  const { logits, maps } = await network.run({ images });
  const milliseconds = performance.now() - start;
  const classes = about.class_names.length;
  const [, height, width] = maps.dims;
  const of = (view, y, x, label) => maps.data[((view * height + y) * width + x) * classes + label];
  // A place of the mirror image lies on the other side of the picture.
  const at = (label, y, x) => mean(views, (view) => of(view, y, view ? width - 1 - x : x, label));
  map = { height, width, at };
  const means = about.class_names.map((_, label) => mean(views, (view) => logits.data[view * classes + label]));
  const top = Math.max(...means);
  const powers = means.map((logit) => Math.exp((logit - top) / about.temperature));
  const total = powers.reduce((a, b) => a + b);
  draw(powers.map((power) => power / total));
  find("time").textContent = `Computed here in ${milliseconds.toFixed(0)} ms.`;
  find("demo").setAttribute("aria-busy", false);
}

/** Return the mean of what `value` gives for the number of each view. */
function mean(views, value) {
  return views.reduce((total, _, at) => total + value(at), 0) / views.length;
}

function draw(probabilities) {
  const order = probabilities.map((_, label) => label).sort((a, b) => probabilities[b] - probabilities[a] || a - b);
  const percent = (label) => `${(100 * probabilities[label]).toFixed(1)}%`;
  find("answer").textContent = `${about.class_names[order[0]]}, ${percent(order[0])}`;
  find("size").textContent = `${about.image_size}×${about.image_size}`;
  find("seen").setAttribute("aria-label", `${name}, as small as the network sees it`);
  paint(find("seen"), about.image_size, about.image_size, (at) => [...pixels.subarray(3 * at, 3 * at + 3), 255]);
  const bars = order.slice(0, 10).map((label) => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.label = label;
    button.innerHTML = '<span class="demo-name"></span><span class="demo-bar"></span><span class="demo-percent"></span>';
    button.children[0].textContent = about.class_names[label];
    button.children[1].style.setProperty("--share", probabilities[label]);
    button.children[2].textContent = percent(label);
    button.addEventListener("click", () => explain(label));
    return button;
  });
  find("bars").replaceChildren(...bars);
  find("result").hidden = false;
  explain(order[0]);
}

/** Draw the map of a class over the picture in grey: orange adds to its logit, blue takes from it. */
function explain(label) {
  for (const bar of find("bars").children) bar.setAttribute("aria-pressed", Number(bar.dataset.label) === label);
  const { height, width, at } = map;
  const values = Array.from({ length: height * width }, (_, i) => at(label, Math.floor(i / width), i % width));
  const most = Math.max(...values.map(Math.abs)) || 1;
  const [plus, minus] = [[255, 120, 0], [30, 120, 255]];
  paint(find("map"), width, height, (i) => [...(values[i] > 0 ? plus : minus), (200 * Math.abs(values[i])) / most]);
  paint(find("grey"), about.image_size, about.image_size, (i) => {
    const grey = 0.299 * pixels[3 * i] + 0.587 * pixels[3 * i + 1] + 0.114 * pixels[3 * i + 2];
    return [grey, grey, grey, 255];
  });
  find("explained").textContent = about.class_names[label];
  find("map").setAttribute("aria-label", `where in the picture the evidence for ${about.class_names[label]} lies`);
}

/** Paint a canvas of width x height pixels with the colour (red, green, blue, opacity) of each. */
function paint(canvas, width, height, colour) {
  [canvas.width, canvas.height] = [width, height];
  const image = new ImageData(width, height);
  for (let at = 0; at < width * height; at++) image.data.set(colour(at), 4 * at);
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function report(message) {
  find("error").textContent = message;
}

// Open the page that is served at URL in Chromium, show it each picture, and print what it answers as JSON.
//
//     node drive.mjs CHROMIUM URL SCREENSHOTS PICTURE...

import path from "node:path";
import { chromium } from "playwright-core";

const [executablePath, url, screenshots, ...pictures] = process.argv.slice(2);
const quiet = ["quic", "background-networking", "component-update", "sync", "gpu"].map((name) => `--disable-${name}`);
const args = ["--no-sandbox", "--no-first-run", ...quiet, "--use-fake-device-for-media-stream"];
const browser = await chromium.launch({ executablePath, args });
const context = await browser.newContext({ permissions: ["camera"] });
const page = await context.newPage();
page.setDefaultTimeout(60_000);
const found = { console: [], requests: [], overflows: [], colours: {}, pictures: {} };
page.on("console", (message) => found.console.push(message.text()));
page.on("pageerror", (error) => found.console.push(String(error)));
page.on("request", (request) => found.requests.push(request.url()));

/** Wait for the answer, and return it: what the page says, probabilities by class, and the pixels that it shows. */
async function answer() {
  await page.waitForSelector("#demo[aria-busy=false]");
  return page.evaluate(() => {
    const seen = document.getElementById("seen");
    const context = new OffscreenCanvas(seen.width, seen.height).getContext("2d", { willReadFrequently: true });
    context.drawImage(seen, 0, 0);
    const { data } = context.getImageData(0, 0, seen.width, seen.height);
    const bars = [...document.getElementById("bars").children].map((bar) => [
      bar.querySelector(".demo-name").textContent,
      Number(bar.querySelector(".demo-bar").style.getPropertyValue("--share")),
    ]);
    const text = (id) => document.getElementById(id).textContent;
    return {
      error: text("error"),
      time: text("time"),
      answer: text("answer"),
      bars: Object.fromEntries(bars),
      pixels: [...data].filter((_, at) => at % 4 < 3),
    };
  });
}

async function choose(file) {
  await page.setInputFiles("#file", file);
  return answer();
}

/** Look at the page in several widths and colours. */
async function look(name) {
  for (const width of [1280, 768, 390]) {
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize({ width, height: 900 });
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      found.colours[colorScheme] = await page.evaluate(() => getComputedStyle(document.body).color);
      if (wide > 0) found.overflows.push(`${name} at ${width}: ${wide} pixels too wide`);
      await page.screenshot({ path: path.join(screenshots, `${name}-${width}-${colorScheme}.png`), fullPage: true });
    }
  }
}

await page.goto(url);
found.first = await answer();
await look("first");

for (const picture of pictures) found.pictures[path.basename(picture)] = await choose(picture);
await look("last");

// By keyboard: every example, the switch, and a class.
const examples = page.locator("#examples button");
found.examples = [];
for (let at = 0; at < (await examples.count()); at++) {
  await examples.nth(at).press("Enter");
  found.examples.push(await answer());
}
await page.locator("#mirror").press("Space");
found.mirrored = await answer();
await page.locator("#mirror").press("Space");
await answer();
await page.locator("#bars button").nth(1).press("Enter");
found.pressed = await page.locator("#bars [aria-pressed=true] .demo-name").allTextContents();
found.explained = await page.locator("#explained").textContent();

// Dropped and pasted, as the browser hands files over.
for (const kind of ["drop", "paste"]) {
  await page.evaluate(
    async ([type]) => {
      const blob = await new Promise((resolve) => document.querySelector("#examples canvas").toBlob(resolve));
      const transfer = new DataTransfer();
      transfer.items.add(new File([blob], "first.png"));
      const event = type === "drop" ? new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true })
        : new ClipboardEvent(type, { clipboardData: transfer, bubbles: true });
      document.body.dispatchEvent(event);
    },
    [kind],
  );
  found[kind] = await answer();
}

await page.locator("#camera").press("Enter");
await page.locator("#shoot:enabled").press("Enter");
found.camera = await answer();

console.log(JSON.stringify(found));
await browser.close();

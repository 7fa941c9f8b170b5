"use strict";
const $ = (id) => document.getElementById(id);
const SETTINGS = ["temperature", "top_k", "top_p", "min_p", "seed"];
let state, figures = [], frames = [], total = 0, at = 0, playing = true, running = null, shown = 0;
let waiting = 0, uploads = Promise.resolve();

function make(tag, text, values = {}) {
  const element = Object.assign(document.createElement(tag), values);
  if (text) element.textContent = text;
  return element;
}

function fail(line) {
  $("error").textContent = line;
  $("error").hidden = !line;
}

/** What is going on; `timed` has the seconds beside it for as long as it does. */
function status(line, timed = false) {
  clearInterval(waiting);
  $("status").textContent = line;
  if (!timed) return;
  const since = Date.now();
  waiting = setInterval(() => {
    $("status").textContent = `${line} ${Math.round((Date.now() - since) / 1000)} s`;
  }, 1000);
}

/** The answer of the server, or an error with its line. */
async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server does not answer; is it still running?");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new Error(told.error || `the server answers ${answer.status} ${answer.statusText}`);
}

function addClip(clip, chosen) {
  const label = make("label", "", {className: "clip"});
  const input = make("input", "", {type: "radio", name: "clip", value: clip.key, checked: chosen});
  input.dataset.frames = clip.frames;
  const about = `${clip.kind}, ${clip.frames} frames`;
  const name = make("b", clip.name, {title: clip.name});
  label.append(input, make("img", "", {src: clip.picture, alt: ""}), name, make("span", about));
  if (clip.kind === "uploaded") $("clips").prepend(label);
  else $("clips").append(label);
  label.classList.toggle("uploaded", clip.kind === "uploaded");
  const kept = [...document.querySelectorAll(".clip.uploaded")];
  kept.slice(state.limits.uploads).forEach((old) => old.remove());
  offer();
}

/** As many frames to keep as the chosen clip has. */
function offer() {
  const chosen = document.querySelector("input[name=clip]:checked"), before = Number($("given").value);
  const most = chosen ? Number(chosen.dataset.frames) : Infinity;
  const some = state.given.filter((n) => n <= most);
  $("given").replaceChildren(...some.map((n) => make("option", String(n), {value: n})));
  const half = state.given[Math.max((state.given.length >> 1) - 1, 0)], wanted = before || half;
  $("given").value = Math.max(...some.filter((n) => n <= wanted), some[0]);
}

async function begin() {
  state = await (await ask("state")).json();
  $("model").textContent = state.model;
  $("about").textContent = `Pick a clip: the model sees its first frames and draws what follows, token by token. `
    + `Its window is ${state.window} frames; what is longer goes on as chosen below.`;
  state.clips.forEach((clip, i) => addClip(clip, i === 0));
  offer();
  $("new").value = Math.min(state.new, state.limits.new_frames);
  $("new").max = state.limits.new_frames;
  $("samples").max = state.limits.samples;
  const modes = {slide: "slide, read anew", roll: "roll the cache", extend: "extend places"};
  state.modes.forEach((m) => $("mode").append(make("option", modes[m] || m, {value: m})));
  $("mode").value = state.mode;
  SETTINGS.forEach((name) => { $(name).value = state.sampling[name]; });
  $("temperature").max = Math.max(100, state.sampling.temperature);
  $("top_k").max = Math.max(state.codes, state.sampling.top_k);
  $("upload-row").hidden = !state.limits.can_upload;
  state.notes.forEach((note) => $("notes").append(make("li", note)));
  $("most").textContent = `${state.most_nats.toFixed(2)} nats: a guess among all codes`;
  paint($("ramp"), Array.from({length: 128}, (_, i) => (i / 127) * state.most_nats), 128, 1);
  requestAnimationFrame(play);
}

/** Nats as colours: from nothing to what a guess costs. */
function paint(canvas, nats, width, height) {
  canvas.width = width;
  canvas.height = height;
  const image = new ImageData(width, height), last = state.ramp.length - 1;
  nats.forEach((value, i) => {
    const level = Math.min(Math.max(value / state.most_nats, 0), 1) * last;
    const low = Math.min(Math.floor(level), last - 1), part = level - low;
    for (let c = 0; c < 3; c++)
      image.data[4 * i + c] = (1 - part) * state.ramp[low][c] + part * state.ramp[low + 1][c];
    image.data[4 * i + 3] = 255;
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function setUp(told) {
  frames = [];
  total = told.frames;
  at = 0;
  figures = told.columns.map((name) => {
    const figure = make("figure"), screen = make("div", "", {className: "screen"});
    const picture = make("canvas", "", {width: state.size, height: state.size});
    const heat = make("canvas", "", {width: state.grid, height: state.grid, className: "heat"});
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", name);
    heat.setAttribute("aria-hidden", "true");
    const caption = make("figcaption");
    screen.append(picture, heat);
    figure.append(screen, caption);
    return {name, figure, picture, heat, caption};
  });
  $("columns").replaceChildren(...figures.map((one) => one.figure));
  $("files").replaceChildren();
  $("player").hidden = false;
}

async function addFrame(told) {
  const load = async (source) => {
    if (!source) return null;
    const image = make("img", "", {src: source});
    await image.decode();
    return image;
  };
  const images = told.pictures.map(load);
  frames[told.t] = {...told, images: await Promise.all(images)};
  $("scrub").max = frames.length - 1;
  $("progress").value = frames.length;
  $("progress").max = total;
  if (playing) at = told.t;
  show();
}

function show() {
  const frame = frames[at];
  if (!frame) return;
  $("scrub").value = at;
  $("place").textContent = `${at + 1} of ${total}, ${frame.made ? "made" : "given"}`;
  figures.forEach((one, i) => {
    const context = one.picture.getContext("2d"), nats = frame.nats[i], known = frame.images[i];
    context.clearRect(0, 0, state.size, state.size);
    if (known) context.drawImage(known, 0, 0, state.size, state.size);
    one.heat.hidden = !frame.heat[i];
    one.heat.style.opacity = $("heat").value;
    if (frame.heat[i]) paint(one.heat, frame.heat[i], state.grid, state.grid);
    const made = frame.made && one.name.startsWith("sample");
    one.figure.classList.toggle("made", made);
    const told = nats !== null ? `${nats.toFixed(2)} nats/token` : i < 2 ? "what it keeps" : "";
    one.caption.replaceChildren(make("b", one.name), known ? told : "not known");
  });
}

/** Plays what is there, at the rate of the videos. */
function play(now) {
  if (playing && running === null && frames.length && now - shown > 1000 / state.fps) {
    shown = now;
    at = (at + 1) % frames.length;
    show();
  }
  requestAnimationFrame(play);
}

/** (event, data) of a stream of server-sent events. */
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const [, event, data] = part.match(/^event: (\w+)\ndata: (.*)$/s) || [];
      if (event) yield [event, JSON.parse(data)];
    }
  }
}

function asked() {
  const chosen = document.querySelector("input[name=clip]:checked");
  if (!chosen) throw new Error("there is no clip yet; upload one");
  const number = (id) => Number($(id).value);
  return JSON.stringify({
    clip: chosen.value, given: number("given"), new_frames: number("new"), samples: number("samples"),
    mode: $("mode").value, sampling: Object.fromEntries(SETTINGS.map((name) => [name, number(name)])),
  });
}

async function generate(event) {
  event.preventDefault();
  if (running) return;
  fail("");
  running = new AbortController();
  $("go").disabled = true;
  $("stop").disabled = false;
  status("Asking ...");
  let ended = false;
  try {
    const headers = {"content-type": "application/json"};
    const answer = await ask("runs", {method: "POST", body: asked(), headers, signal: running.signal});
    for await (const [what, told] of events(answer)) {
      if (what === "queued") {
        if (told.before) status(`In line: ${told.before} before this one.`, true);
        else if (told.ready) status("Starting ...");
        else status("The server compiles what reads clips, once ...", true);
      } else if (what === "begun") {
        setUp(told);
        $("progress").hidden = false;
        $("stage").scrollIntoView({block: "nearest"});
        status(told.compiling ? "Compiling the program for so many frames and samples, once ..."
          : "Reading the clip ...", true);
      } else if (what === "frame") {
        await addFrame(told);
        if (told.made) status(`Frame ${told.t + 1} of ${total} ...`);
      } else if (what === "done") {
        ended = true;
        status(`${total} frames, done in ${told.seconds.toFixed(1)} s.`);
        $("files").replaceChildren(...told.files.map((kind) => make(
          "a", `Download ${kind === "webp" ? "WebP (lossless)" : "MP4"}`,
          {href: `runs/${told.id}.${kind}`, download: "", id: `get-${kind}`})));
      } else if (what === "failed") {
        throw new Error(told.error);
      }
    }
    if (!ended) throw new Error("the connection ended; is the server still running?");
  } catch (error) {
    const stopped = error.name === "AbortError";
    status(stopped ? "Stopped." : "Not done.");
    if (!stopped) fail(error.message);
  }
  running = null;
  $("progress").hidden = true;
  $("go").disabled = false;
  $("stop").disabled = true;
}

/** Several files one after the other, also those that are chosen while others are read. */
function upload() {
  fail("");
  [...$("upload").files].forEach((file) => { uploads = uploads.then(() => send(file)); });
  $("upload").value = "";
}

async function send(file) {
  if (!running) status(`Reading ${file.name} ...`, true);
  try {
    if (file.size > state.limits.upload_mb * 1e6)
      throw new Error(`${file.name} has more than ${state.limits.upload_mb} MB, which is the most that may be uploaded`);
    const headers = {"content-type": "application/octet-stream"};
    const path = `clips?name=${encodeURIComponent(file.name)}`;
    addClip(await (await ask(path, {method: "POST", body: file, headers})).json(), true);
    if (!running) status(`${file.name} is there.`);
  } catch (error) {
    if (!running) status("Not uploaded.");
    fail(error.message);
  }
}

$("form").addEventListener("submit", generate);
["input", "invalid"].forEach((what) => $("form").addEventListener(what, () => fail(""), true));
$("clips").addEventListener("change", offer);
$("stop").addEventListener("click", () => running && running.abort());
$("upload").addEventListener("change", upload);
$("heat").addEventListener("input", show);
$("scrub").addEventListener("input", () => { setPlaying(false); at = Number($("scrub").value); show(); });
$("play").addEventListener("click", () => setPlaying(!playing));
function setPlaying(value) {
  playing = value;
  $("play").textContent = value ? "Pause" : "Play";
}
begin().catch((error) => fail(error.message));

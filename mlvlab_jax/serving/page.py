"""The page at /: drop or choose a picture, see its classes. It holds nothing of the model until it is asked."""

from collections.abc import Mapping

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from mlvlab_jax.pages import render_document
from mlvlab_jax.serving.replies import reply_bytes

_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_BODY = """
<main>
<header><h1>Which class is it?</h1>
<p class="quiet">The model behind this server says what it sees in a picture.</p></header>
<form id="key" hidden><label for="token">This server asks for a token</label>
<div class="row"><input id="token" type="password" autocomplete="off" spellcheck="false" required>
<button>Use it</button></div></form>
<label id="drop" for="file"><input id="file" type="file" accept="image/*">
<img id="picture" alt="The chosen picture" hidden>
<span id="hint"><b>Drop a picture here</b><span class="first">or choose one: JPEG, PNG, WebP, GIF or BMP</span>
<span class="next">Drop or choose another</span></span></label>
<p id="trouble" class="error" role="alert"></p>
<section id="answer" aria-live="polite"><ol id="classes"></ol><p id="facts" class="quiet"></p></section>
<footer class="quiet"><a href="openapi.json">OpenAPI document</a> · <a href="metrics">Metrics</a></footer>
</main>"""

_STYLE = """
body { max-width: 34rem } header { margin-bottom: 1.4rem } a { color: inherit }
#drop { display: grid; place-content: center; justify-items: center; gap: .6rem; min-height: 13rem;
  padding: 1rem; text-align: center; cursor: pointer;
  border: 2px dashed var(--quiet); border-radius: .8rem; background: var(--soft); position: relative }
#drop:hover, #drop.over { border-color: var(--blue) } #drop:focus-within { outline: 3px solid var(--blue) }
#file { position: absolute; width: 1px; height: 1px; opacity: 0 }
#hint b { display: block; font-size: 1.1rem } #hint span { color: var(--quiet); font-size: .85rem }
#picture { max-width: 100%; max-height: 18rem; border-radius: .4rem; image-rendering: auto }
.full :is(b, .first), :not(.full) > * > .next { display: none !important }
#picture.small { width: 10rem; image-rendering: pixelated }
[hidden] { display: none !important } .waiting { opacity: .45; transition: opacity .2s .15s }
#trouble:empty, #facts:empty { display: none } #trouble { margin: 1rem 0 }
ol { list-style: none; margin: 1.4rem 0 .8rem; padding: 0 }
li { display: grid; grid-template-columns: 1fr auto; gap: .1rem 1rem; margin-bottom: .7rem }
li:first-child { font-weight: 600 } li span { overflow-wrap: anywhere }
li data { font-variant-numeric: tabular-nums }
.bar { grid-column: 1 / -1; height: .5rem; border-radius: .25rem; background: var(--soft);
  box-shadow: inset 0 0 0 1px var(--line); overflow: hidden }
.bar i { display: block; height: 100%; background: var(--quiet) } li:first-child .bar i { background: var(--blue) }
#key { margin-bottom: 1.2rem } .row { display: flex; gap: .5rem; margin-top: .3rem }
#key input { flex: 1; min-width: 0 } #key input, button { font: inherit; color: inherit; padding: .45rem .7rem;
  border: 1px solid var(--line); border-radius: .4rem; background: var(--paper) }
button { background: var(--blue); border-color: var(--blue); color: var(--paper); cursor: pointer }
:is(button, a, #key input):focus-visible { outline: 3px solid var(--blue); outline-offset: 2px }
footer { margin-top: 2.4rem; padding-top: .8rem; border-top: 1px solid var(--line) }
"""

_SCRIPT = """
"use strict";
const $ = id => document.getElementById(id);
let token = "", file = null, asked = 0;

function ask(path, options = {}) {
  const headers = token ? { ...options.headers, Authorization: "Bearer " + token } : options.headers;
  return fetch(path, { ...options, headers });
}

function complain(text) {
  $("trouble").textContent = text;
}

function askForToken() {
  if (!$("key").hidden) complain("The server does not take this token.");
  $("key").hidden = false;
  $("token").select();
}

function show(answer, milliseconds) {
  $("classes").replaceChildren(...answer.predictions.map(({ label, probability }) => {
    const percent = (100 * probability).toFixed(1);
    const row = document.createElement("li"), name = document.createElement("span");
    const share = document.createElement("data"), bar = document.createElement("div");
    name.textContent = label;
    share.textContent = (probability > 0 && percent === "0.0" ? "< 0.1" : percent) + " %";
    share.value = probability;
    bar.className = "bar";
    bar.append(document.createElement("i"));
    bar.firstChild.style.width = percent + "%";
    row.append(name, share, bar);
    return row;
  }));
  $("facts").textContent = `${answer.model}, version ${answer.version}: answered in ${milliseconds} ms`;
}

function preview() {
  const picture = $("picture");
  URL.revokeObjectURL(picture.src);
  picture.onload = () => {
    picture.classList.toggle("small", Math.max(picture.naturalWidth, picture.naturalHeight) < 96);
    $("drop").classList.add("full");
    picture.hidden = false;
  };
  picture.onerror = () => {
    $("drop").classList.remove("full");
    picture.hidden = true;
  };
  picture.src = URL.createObjectURL(file);
}

async function classify() {
  const mine = ++asked, started = performance.now();
  complain("");
  $("answer").classList.add("waiting");
  let reply, answer;
  try {
    const headers = { "Content-Type": file.type || "application/octet-stream" };
    reply = await ask("v1/classify", { method: "POST", headers, body: file });
    answer = await reply.json();
  } catch {
    answer = { error: "The server does not answer. The picture may be too large, or the server is gone." };
  }
  if (mine !== asked) return;
  $("answer").classList.remove("waiting");
  if (reply?.ok && answer.predictions) {
    $("key").hidden = true;
    return show(answer, Math.round(performance.now() - started));
  }
  $("classes").replaceChildren();
  $("facts").textContent = "";
  if (reply?.status === 401) return askForToken();
  const wait = reply?.headers.get("Retry-After");
  complain(answer.error[0].toUpperCase() + answer.error.slice(1) + "." + (wait ? ` Try again in ${wait} s.` : ""));
  $("facts").textContent = answer.request_id ? "request " + answer.request_id : "";
}

function take(files) {
  if (!files.length) return;
  file = files[0];
  preview();
  classify();
}

async function greet() {
  const reply = await ask("v2/health/ready").catch(() => null);
  if (reply?.status === 401) return askForToken();
  if (reply?.ok) $("key").hidden = true;
  complain(reply?.ok ? "" : reply ? "The server is not ready yet." : "The server does not answer.");
}

$("file").addEventListener("change", event => take(event.target.files));
$("key").addEventListener("submit", event => {
  event.preventDefault();
  token = $("token").value;
  file ? classify() : greet();
});
for (const kind of ["dragenter", "dragover", "dragleave", "drop"])
  addEventListener(kind, event => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files);
  });
greet();
"""

#: The whole document. It tells nothing that a token protects, so it may be the body of a 401 too: where there is a
#: token, the page asks for it.
PAGE = render_document(_BODY, title="Which class is it?", style=_STYLE, script=_SCRIPT).encode()


def reply_page(scope: Scope, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The page."""
    return reply_bytes(scope, PAGE, media_type="text/html", status=status, headers=_HEADERS | dict(headers or {}))


def add_page(app: FastAPI) -> None:
    """Adds the route."""

    async def page(request: Request) -> Response:
        return reply_page(request.scope)

    app.add_api_route("/", page, include_in_schema=False)

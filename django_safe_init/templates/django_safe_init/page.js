
// From here on: the page. What stands above is status.js, in the same inline module.

const ANNOUNCE_EVERY = 15000;
const main = document.querySelector("main");
const { statusUrl, continueUrl } = main.dataset;
// What a form has sent is lost: to go on by itself would hide that.
const stays = "stays" in main.dataset;
const drawn = ["mark", "text", "counts", "numbers", "debug", ...(stays ? [] : ["promise"])];
let announcedAt = -Infinity;
let startedAt = -Infinity;

const part = (id, tree = document) => tree.querySelector(`#${id}`);

function proceed() {
  if (stays) return;
  const wanted = new URL(continueUrl, location.href);
  wanted.hash = location.hash;
  if (wanted.origin !== location.origin) return;
  // With a fragment, going to the same address would load nothing.
  if (location.hash && wanted.href === location.href) location.reload();
  else location.replace(wanted);
}

function draw(fresh) {
  for (const id of drawn) {
    const [old, now] = [part(id), part(id, fresh)];
    if (old.outerHTML !== now.outerHTML) old.replaceWith(document.adoptNode(now));
  }
  // The link stays: elsewhere it may lead elsewhere. The bar stays, so that it glides.
  if (!stays) part("link").textContent = part("link", fresh).textContent;
  for (const name of ["value", "hidden", "aria-valuetext"]) {
    const value = part("bar", fresh).getAttribute(name);
    if (value === null) part("bar").removeAttribute(name);
    else part("bar").setAttribute(name, value);
  }
  document.title = part("text").dataset.title;
  setClock();
}

// Words and numbers come from the server, in its language. In a rollout, another version may
// answer: what does not have the style of this page is not this page.
async function redraw() {
  const asked = { headers: { Accept: "text/html" }, cache: "no-store" };
  const answer = await (await fetch(statusUrl, asked)).text();
  if (!answer.includes(document.querySelector("style").outerHTML)) throw new TypeError("not this page");
  draw(new DOMParser().parseFromString(answer, "text/html"));
}

// What can be shown without the page.
function sketch({ progress, message }) {
  part("explanation").textContent = message;
  if (progress > 0) part("bar").setAttribute("value", progress);
}

function announce(state) {
  const known = state === main.dataset.state;
  if (known && performance.now() - announcedAt < ANNOUNCE_EVERY) return;
  announcedAt = performance.now();
  part("live").textContent = `${part("heading").textContent} ${part("counts").innerText}`;
}

function complain({ failures, httpStatus }) {
  part("unanswered").textContent = part("unanswered").dataset.text;
  // Something else answers there now, so what was wanted is held back no more.
  if (failures > 2 && httpStatus && httpStatus < 500) proceed();
}

async function follow(status) {
  if (status.state === UNREACHABLE) return complain(status);
  part("unanswered").textContent = "";
  if (status.state === State.READY) {
    draw(part("ready").content);
    proceed();
  } else {
    await redraw().catch(() => sketch(status));
  }
  announce(status.state);
  main.dataset.state = status.state;
}

function setClock() {
  const seconds = parseInt(part("elapsed")?.dataset.seconds ?? "0");
  const at = performance.now() - seconds * 1000;
  // It need not go back for the time that an answer took.
  if (at < startedAt || at > startedAt + 2000) startedAt = at;
  tick();
}

function tick() {
  const elapsed = part("elapsed");
  if (!elapsed) return;
  const seconds = Math.floor((performance.now() - startedAt) / 1000);
  const [hours, minutes] = [seconds / 3600, (seconds / 60) % 60].map(Math.floor);
  const two = (number) => String(number).padStart(2, "0");
  const rest = `${hours ? two(minutes) : minutes}:${two(seconds % 60)}`;
  elapsed.textContent = hours ? `${hours}:${rest}` : rest;
}

setClock();
setInterval(tick, 1000);
if (main.dataset.state === State.READY) proceed();
else watchStatus(statusUrl, follow, { delay: 1000 });

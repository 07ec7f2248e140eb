// The viewer's one script: news without reload, views without reload, copying, local times. Every page works without it.
// Pages are fetched as documents the browser itself parsed; no string is ever made into HTML (the policy in the headers forbids it).
"use strict";

const pulse = document.querySelector("[data-pulse]");

/** GET `url` as a document; resolves to {status, page, tag}, status 0 when nobody answered. */
function get(url, tag) {
  return new Promise((resolve) => {
    const request = new XMLHttpRequest();
    request.open("GET", url);
    request.responseType = "document";
    request.timeout = 20000;
    if (tag) request.setRequestHeader("If-None-Match", tag);
    request.onloadend = () =>
      resolve({ status: request.status, page: request.status === 200 ? request.response : null, tag: request.status ? request.getResponseHeader("ETag") : null });
    request.send();
  });
}

/** What the script itself adds to a part of a page: it must be there before old and new are compared. */
function dress(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    time.title = `${new Date(time.dateTime).toLocaleString()} here`;
  }
  for (const button of root.querySelectorAll("[data-copy], [data-copy-from]")) {
    button.hidden = !navigator.clipboard;
  }
}

/** Make `old` say what `fresh` says, keeping rows that did not change, so that focus and selection stay. */
function renew(old, fresh) {
  const rows = old.querySelector("[data-rows]");
  const freshRows = fresh.querySelector("[data-rows]");
  if (rows && freshRows) {
    renewRows(rows, freshRows);
    const [pages, freshPages] = [old.querySelector(".pages"), fresh.querySelector(".pages")];
    if (freshPages && !pages) old.append(freshPages);
    else if (freshPages && !pages.isEqualNode(freshPages)) pages.replaceWith(freshPages);
    return;
  }
  const open = [...old.querySelectorAll("details[open][id]")].map((details) => details.id);
  for (const id of open) {
    const details = fresh.querySelector(`#${CSS.escape(id)}`);
    if (details) details.open = true;
  }
  const typing = old.contains(document.activeElement) && document.activeElement.matches("input, select");
  if (!typing && !old.isEqualNode(fresh)) {
    const scrolled = old.querySelector("[tabindex]")?.scrollTop;
    old.replaceChildren(...fresh.childNodes);
    const scroller = old.querySelector("[tabindex]");
    if (scroller && scrolled) scroller.scrollTop = scrolled;
  }
}

function renewRows(rows, fresh) {
  const known = new Map([...rows.children].map((row) => [row.dataset.key, row]));
  let place = rows.firstElementChild;
  for (const row of [...fresh.children]) {
    const had = known.get(row.dataset.key);
    known.delete(row.dataset.key);
    const next = had?.isEqualNode(row) ? had : row;
    if (had && next !== had) {
      if (had === place) place = had.nextElementSibling;
      had.remove();
    }
    if (next === place) place = place.nextElementSibling;
    else rows.insertBefore(next, place);
    if (!had) flash(next);
  }
  for (const row of known.values()) row.remove();
}

function flash(row) {
  row.classList.add("fresh");
  row.addEventListener("animationend", () => row.classList.remove("fresh"), { once: true });
}

function show(page) {
  dress(page);
  for (const part of document.querySelectorAll("[data-part]")) {
    const fresh = page.getElementById(part.id);
    if (fresh) renew(part, fresh);
  }
  for (const fresh of page.querySelectorAll("[data-part]")) {
    if (!document.getElementById(fresh.id)) document.getElementById("main").append(fresh);
  }
}

/** Look for news while someone looks; more and more rarely while nobody answers. */
async function follow() {
  let tag = null;
  const often = Number(document.body.dataset.live) || 1000;
  let pause = often;
  for (;;) {
    await new Promise((wake) => setTimeout(wake, pause));
    if (document.hidden) {
      await new Promise((wake) => document.addEventListener("visibilitychange", wake, { once: true }));
    }
    const { status, page, tag: next } = await get(location.href.split("#")[0], tag);
    if (status === 200 && page) {
      tag = next;
      show(page);
      if (!page.body.hasAttribute("data-live")) return say("");
    } else if (status === 401) {
      return say("Locked: reload", true);
    }
    const answered = status === 200 || status === 304;
    say(answered ? "Live" : "Viewer not reached", !answered);
    pause = answered ? often : Math.min(pause * 2, 15000);
  }
}

function say(text, lost = false) {
  if (pulse.textContent !== text) pulse.textContent = text;
  pulse.classList.toggle("lost", lost);
  pulse.hidden = !text;
}

async function copy(button) {
  const source = button.dataset.copyFrom;
  const text = source ? await (await fetch(source)).text() : document.querySelector(button.dataset.copy).textContent;
  await navigator.clipboard.writeText(text);
  const label = button.textContent;
  button.textContent = "Copied";
  button.classList.add("done");
  setTimeout(() => {
    button.textContent = label;
    button.classList.remove("done");
  }, 1500);
}

async function swap(link, id) {
  const { status, page } = await get(link.href.split("#")[0]);
  const [old, fresh] = [document.getElementById(id), page?.getElementById(id)];
  if (status !== 200 || !fresh) {
    location.assign(link.href);
    return;
  }
  dress(page);
  old.replaceChildren(...fresh.childNodes);
  history.replaceState(null, "", link.href.split("#")[0]);
  for (const other of document.querySelectorAll("a[data-swap]")) {
    const same = page.querySelector(`#${CSS.escape(other.dataset.swap)}`);
    if (same && other.dataset.swap !== id) {
      const links = [...same.querySelectorAll("a[data-swap]")];
      const match = links.find((it) => it.textContent === other.textContent);
      if (match) other.href = match.href;
    }
  }
  old.querySelector("[aria-current]")?.focus({ preventScroll: true });
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy], [data-copy-from]");
  if (button) copy(button);
  const link = event.target.closest("a[data-swap]");
  if (link && event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey) {
    event.preventDefault();
    swap(link, link.dataset.swap);
  }
});

dress(document);
if (document.body.hasAttribute("data-live")) {
  say("Live");
  follow();
}

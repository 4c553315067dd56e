// The page works without this file. With it, answers replace the content without a reload, keys move, and chats grow.
"use strict";
(() => {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "";
  const known = document.cookie.split("; ").find((each) => each.startsWith("zone="));
  if (zone && known !== `zone=${encodeURIComponent(zone)}`) {
    document.cookie = `zone=${encodeURIComponent(zone)}; path=/; max-age=31536000; samesite=lax`;
    // The first page showed the server's hours.
    if (document.cookie.includes("zone=") && document.querySelector("time")) location.reload();
  }

  const main = () => document.getElementById("main");
  const items = () => [...document.querySelectorAll("[data-item]")];
  let chosen = -1;
  let running = null;

  const read = async (address) => {
    if (running) running.abort();
    running = new AbortController();
    const answer = await fetch(address, { signal: running.signal, headers: { accept: "text/html" } });
    return { url: answer.url, page: new DOMParser().parseFromString(await answer.text(), "text/html") };
  };

  const show = (page) => {
    document.title = page.title;
    main().replaceWith(page.getElementById("main"));
    const head = page.querySelector("header.top");
    if (head) document.querySelector("header.top").replaceWith(head);
    const back = page.querySelector("footer form [name=back]");
    if (back) document.querySelector("footer form [name=back]").value = back.value;
    chosen = -1;
    begin();
  };

  const go = async (address, push) => {
    document.body.classList.add("busy");
    try {
      const { page } = await read(address);
      if (push) history.pushState(null, "", address);
      show(page);
      const target = location.hash && document.getElementById(location.hash.slice(1));
      if (target) target.scrollIntoView({ block: "start" });
      else scrollTo(0, 0);
      if (!target) main().focus({ preventScroll: true });
    } catch (error) {
      if (error.name !== "AbortError") location.href = address;
    } finally {
      document.body.classList.remove("busy");
    }
  };

  const grow = async (link) => {
    if (link.dataset.read) return;
    link.dataset.read = "1";
    try {
      const answer = await fetch(link.href, { headers: { accept: "text/html" } });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const older = link.classList.contains("older");
      const box = link.closest(".messages");
      const turn = link.closest(".turn");
      const fresh = [...page.querySelectorAll(".messages > *")];
      const kept = fresh.filter((each) => each.matches(".day") || each.querySelector(older ? "a.older" : "a.newer")
        || (each.matches(".turn.end") && each === (older ? fresh[0] : fresh[fresh.length - 1])));
      const height = document.documentElement.scrollHeight;
      const top = scrollY;
      turn.replaceWith(...kept);
      for (const day of box.querySelectorAll(".day")) {
        const next = day.nextElementSibling;
        if (next && next.matches(".day") && next.dataset.day === day.dataset.day) {
          day.append(...[...next.children].slice(1));
          next.remove();
        }
      }
      if (older) scrollTo(0, top + document.documentElement.scrollHeight - height);
      watch();
    } catch {
      delete link.dataset.read;
    }
  };

  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) grow(entry.target);
  }, { rootMargin: "200px" });
  const watch = () => document.querySelectorAll("a.older, a.newer").forEach((link) => seen.observe(link));

  // The page of what is new: the server tells when it is old, and it is read again where it stands.
  let stream = null;
  const listen = () => {
    if (stream) stream.close();
    stream = null;
    const news = document.getElementById("news");
    if (!news || document.hidden) return;
    const opened = stream = new EventSource(news.dataset.live);
    opened.addEventListener("news", async () => {
      opened.close();
      try {
        const answer = await fetch(location.href, { headers: { accept: "text/html" } });
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        if (stream === opened) renew(page);
      } catch {
        if (stream === opened) setTimeout(() => { if (stream === opened) listen(); }, 5000);
      }
    });
  };
  const renew = (page) => {
    const fresh = page.getElementById("news");
    if (!fresh) { location.reload(); return; }
    const focused = document.activeElement && document.activeElement.closest("#news a");
    const marked = items()[chosen];
    const address = (each) => each && (each.matches("a") ? each : each.querySelector("a")).href;
    const [href, kept] = [focused && focused.href, address(marked)];
    document.getElementById("news").replaceWith(fresh);
    document.getElementById("news-since").replaceChildren(...page.getElementById("news-since").childNodes);
    chosen = kept ? items().findIndex((each) => address(each) === kept) : -1;
    if (chosen >= 0) items()[chosen].classList.add("chosen");
    const again = href && [...fresh.querySelectorAll("a")].find((each) => each.href === href);
    if (again) again.focus({ preventScroll: true });
    listen();
  };
  document.addEventListener("visibilitychange", listen);

  // The first page has the names of chats and people that the fields complete. Other pages ask it when a field needs them.
  let names = null;
  let namesAt = 0;
  document.addEventListener("focusin", async (event) => {
    const list = event.target.matches("form.find input[list]") && event.target.getAttribute("list");
    if (!list || document.getElementById(list)) return;
    if (!names || Date.now() - namesAt > 60000) {
      namesAt = Date.now();
      names = fetch("/", { headers: { accept: "text/html" } }).then((answer) => answer.text());
    }
    try {
      const page = new DOMParser().parseFromString(await names, "text/html");
      for (const id of ["people", "chats"]) {
        const fresh = page.getElementById(id);
        if (fresh && !document.getElementById(id)) event.target.form.append(fresh);
      }
    } catch {
      names = null;
    }
  });

  const choose = (step) => {
    const all = items();
    if (!all.length) return;
    if (chosen < 0) {
      const hit = all.findIndex((each) => each.matches(".hit"));
      chosen = hit >= 0 ? hit : step > 0 ? -1 : all.length;
    }
    all.forEach((each) => each.classList.remove("chosen"));
    chosen = Math.min(Math.max(chosen + step, 0), all.length - 1);
    const item = all[chosen];
    item.classList.add("chosen");
    item.scrollIntoView({ block: "nearest" });
    const link = item.matches("a") ? item : item.querySelector("a.cover, a.clock, a");
    if (link) link.focus({ preventScroll: true });
  };

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.matches("form.find, form.jump")) return;
    event.preventDefault();
    const told = new URLSearchParams();
    for (const [name, value] of new FormData(form)) if (value) told.append(name, value);
    const query = told.toString();
    go(form.getAttribute("action") + (query ? `?${query}` : ""), true);
  });

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href]");
    if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    if (link.pathname === "/sign-in") return;
    if (link.target || link.origin !== location.origin || link.getAttribute("href").startsWith("#")) return;
    event.preventDefault();
    if (link.matches("a.older, a.newer")) grow(link);
    else go(link.href, true);
  });

  addEventListener("popstate", () => go(location.href, false));

  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input, select, textarea");
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (typing) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const help = document.getElementById("help");
    if (event.key === "/") {
      const field = document.getElementById("q");
      if (field) { event.preventDefault(); field.focus(); field.select(); }
    } else if (event.key === "j") choose(1);
    else if (event.key === "k") choose(-1);
    else if (event.key === "?" && !help.open) help.showModal();
  });

  const begin = () => {
    const hit = document.getElementById("hit");
    if (hit && !location.hash) hit.scrollIntoView({ block: "start" });
    watch();
    listen();
  };
  begin();
})();

"use strict";
(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const kept = (value) => {
    try {
      if (value) localStorage.setItem("assay-theme", value);
      return localStorage.getItem("assay-theme");
    } catch {
      return null; // storage may be forbidden: the system's choice then stands
    }
  };
  const theme = kept();
  if (theme === "dark" || theme === "light") root.dataset.theme = theme;
  root.classList.add("scripted");

  document.addEventListener("DOMContentLoaded", () => {
    const at = (id) => document.getElementById(id);
    const all = (selector, from = document) => [...from.querySelectorAll(selector)];

    // Light and dark.
    const button = at("theme");
    const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
    const label = () => button.setAttribute("aria-pressed", String(isDark()));
    button.onclick = () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      kept(root.dataset.theme);
      label();
    };
    dark.addEventListener("change", label);
    label();

    // Copying a command.
    for (const copy of all("button.copy")) {
      copy.onclick = async () => {
        const code = copy.parentElement.querySelector("code");
        try {
          await navigator.clipboard.writeText(code.textContent);
        } catch {
          getSelection().selectAllChildren(code);
          document.execCommand("copy");
        }
        copy.textContent = "Copied";
        setTimeout(() => (copy.textContent = "Copy"), 1500);
      };
    }

    // An anchor inside closed details opens them.
    const reveal = () => {
      let box = at(location.hash.slice(1))?.closest("details");
      for (; box; box = box.parentElement.closest("details")) box.open = true;
    };

    // The list: search, filter, order. What is chosen is kept in the address, so that it can be sent on.
    const list = at("papers");
    let visible = () => all("article.claim");
    let search = null;
    if (list) {
      const plain = (text) => text.normalize("NFD").replace(/[\u0300-\u036f]/g, "").toLowerCase();
      const marks = new Map(all("#map [data-paper]").map((group) => [group.dataset.paper, group]));
      const papers = all("article.paper").map((row, place) => ({
        row, place, ...row.dataset,
        text: plain(row.textContent),
        title: plain(row.querySelector("h3").textContent),
        claims: all("li", row),
      }));
      const fields = ["q", "subject", "year", "order"];
      const toggles = all("[data-outcome]", at("filters"));
      const chosen = () => toggles.filter((t) => t.getAttribute("aria-pressed") === "true").map((t) => t.dataset.outcome);
      const orders = {
        "": () => 0,
        subject: (a, b) => a.subject.localeCompare(b.subject),
        title: (a, b) => a.title.localeCompare(b.title),
        newest: (a, b) => b.year - a.year,
        oldest: (a, b) => a.year - b.year,
        holds: (a, b) => b.holds - a.holds,
        fails: (a, b) => b.fails - a.fails,
      };
      let order = "";

      const apply = (remember = true) => {
        const words = plain(at("q").value).split(/\s+/).filter(Boolean);
        const only = chosen();
        let shownPapers = 0, shownClaims = 0;
        for (const paper of papers) {
          const fits = words.every((word) => paper.text.includes(word)) &&
            (!at("subject").value || paper.subject === at("subject").value) &&
            (!at("year").value || paper.year === at("year").value);
          let left = 0;
          for (const claim of paper.claims) {
            claim.hidden = only.length > 0 && !only.includes(claim.dataset.outcome);
            left += !claim.hidden && Boolean(claim.dataset.outcome);
          }
          paper.row.hidden = !fits || (only.length > 0 && !left);
          marks.get(paper.key)?.classList.toggle("off", paper.row.hidden);
          if (!paper.row.hidden) shownPapers++, (shownClaims += left);
        }
        at("map").dataset.only = only.join(" ");
        if (order !== at("order").value) {
          order = at("order").value;
          papers.sort((a, b) => orders[order](a, b) || a.place - b.place);
          list.append(...papers.map((paper) => paper.row));
        }
        const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
        at("count").textContent = `${plural(shownPapers, "paper")}, ${plural(shownClaims, "claim")}`;
        at("nothing").hidden = shownPapers > 0;
        const state = new URLSearchParams();
        for (const id of fields) if (at(id).value) state.set(id, at(id).value);
        if (only.length) state.set("verdict", only.join("-"));
        at("clear").hidden = !String(state);
        if (!remember) return;
        try {
          history.replaceState(null, "", String(state) ? `#${state}` : location.pathname);
        } catch {
          // some browsers forbid it for files: the page works without
        }
      };

      const restore = () => {
        if (location.hash.length > 1 && !location.hash.includes("=")) return reveal();
        const state = new URLSearchParams(location.hash.slice(1));
        for (const id of fields) at(id).value = state.get(id) ?? "";
        for (const id of fields) if (at(id).selectedIndex === -1) at(id).value = "";
        const only = (state.get("verdict") ?? "").split("-");
        for (const t of toggles) t.setAttribute("aria-pressed", String(only.includes(t.dataset.outcome)));
        apply(false);
      };

      search = at("q");
      search.clear = () => {
        for (const id of ["q", "subject", "year"]) at(id).value = "";
        for (const t of toggles) t.setAttribute("aria-pressed", "false");
        apply();
      };
      at("filters").onsubmit = (event) => event.preventDefault();
      at("filters").oninput = () => apply();
      at("clear").onclick = () => (search.clear(), search.focus());
      for (const t of toggles) {
        t.onclick = () => {
          t.setAttribute("aria-pressed", String(t.getAttribute("aria-pressed") !== "true"));
          apply();
        };
      }
      for (const link of all("#map [data-subject]")) {
        link.onclick = (event) => {
          event.preventDefault();
          at("subject").value = at("subject").value === link.dataset.subject ? "" : link.dataset.subject;
          apply();
        };
      }
      visible = () => all("article.paper:not([hidden]) h3 a", list);
      addEventListener("hashchange", restore);
      restore();
    } else {
      addEventListener("hashchange", reveal);
      reveal();
    }

    // Keys.
    const help = at("help");
    at("keys").onclick = () => help.showModal();
    let current = null;
    const step = (by) => {
      const rows = visible();
      const focused = rows.findIndex((row) => row === document.activeElement || row.contains(document.activeElement));
      const from = focused >= 0 ? focused : rows.indexOf(current);
      const next = rows[from < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(Math.max(from + by, 0), rows.length - 1)];
      if (!next) return;
      current = next;
      next.focus({ preventScroll: true });
      next.scrollIntoView({ block: list ? "center" : "start" });
    };
    addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
      const target = event.target;
      const typing = target.matches("input, select, textarea");
      const inList = target === search || visible().includes(target);
      const key = event.key;
      if (key === "Escape" && search) search.clear(), search.blur();
      else if ((key === "ArrowDown" || key === "ArrowUp") && inList) step(key === "ArrowDown" ? 1 : -1);
      else if (typing) return;
      else if (key === "/" && search) search.focus(), search.select();
      else if (key === "j" || key === "k") step(key === "j" ? 1 : -1);
      else if (key === "?") help.showModal();
      else if (key === "u" && at("up")) at("up").click();
      else return;
      event.preventDefault();
    });
  });
})();

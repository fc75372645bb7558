// Small repairs of what the theme writes, once it has written it.
addEventListener("load", () => {
  // a table that scrolls sideways must be reachable by keyboard; the theme sees to code
  const watch = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
      else target.removeAttribute("tabindex");
    }
  });
  document.querySelectorAll(".bd-article table").forEach((table) => watch.observe(table));

  // the logo belongs to a landmark, an entry to its list, and what folds is called what it says
  const name = (selector, attributes) => {
    for (const element of document.querySelectorAll(selector)) {
      for (const [attribute, value] of Object.entries(attributes)) {
        if (value === null) element.removeAttribute(attribute);
        else element.setAttribute(attribute, value);
      }
    }
  };
  name(".bd-sidebar-primary", { role: "region", "aria-label": "The book" });
  name("[role=list] > [role=doc-biblioentry]", { role: "listitem" });
  name("summary[aria-label]", { "aria-label": null });
});

// paper is white
const root = document.documentElement;
let shown;
addEventListener("beforeprint", () => { shown = root.dataset.theme; root.dataset.theme = "light"; });
addEventListener("afterprint", () => { root.dataset.theme = shown; });

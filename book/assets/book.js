// A table that scrolls sideways must be reachable by keyboard; the theme sees to code only.
addEventListener("load", () => {
  const watch = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
      else target.removeAttribute("tabindex");
    }
  });
  document.querySelectorAll(".bd-article table").forEach((table) => watch.observe(table));
});

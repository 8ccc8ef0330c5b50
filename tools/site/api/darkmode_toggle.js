// Colors of the reference: uses the reader's choice that VitePress stores for the site.
const KEY = "vitepress-theme-appearance";
const system = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const chosen = localStorage.getItem(KEY) ?? "auto";
  return chosen === "auto" ? system.matches : chosen === "dark";
}

function show() {
  const dark = isDark();
  document.documentElement.classList.toggle("dark", dark);
  const [moon, sun] = document.getElementById("theme-toggle")?.children ?? [];
  moon?.classList.toggle("hidden", dark);
  sun?.classList.toggle("hidden", !dark);
}

show();
system.addEventListener("change", show);
addEventListener("storage", show);
addEventListener("DOMContentLoaded", () => {
  const toggle = document.getElementById("theme-toggle");
  toggle.removeAttribute("style");
  toggle.addEventListener("click", () => {
    const next = isDark() ? "light" : "dark";
    localStorage.setItem(KEY, next === (system.matches ? "dark" : "light") ? "auto" : next);
    show();
  });
  show();
});

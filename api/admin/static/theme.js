// Set the light or dark theme before the page is drawn: the chosen one, or else the system's.
"use strict";
(function () {
  const root = document.documentElement;
  root.dataset.scripts = "yes";
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const applySystemTheme = () => {
    if (!root.dataset.theme) root.dataset.bsTheme = dark.matches ? "dark" : "light";
  };
  applySystemTheme();
  dark.addEventListener("change", applySystemTheme);
  // The server formats instants in the time zone of this cookie.
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const secure = location.protocol === "https:" ? "; secure" : "";
  if (zone && root.dataset.zone !== zone && !document.cookie.includes("admin_zone=" + zone)) {
    document.cookie = "admin_zone=" + zone + "; path=/admin; max-age=31536000; samesite=lax" + secure;
    if (document.cookie.includes("admin_zone=" + zone) && root.dataset.instants) location.reload();
  }
})();

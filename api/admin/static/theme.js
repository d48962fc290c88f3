// Light or dark, before anything is drawn: as chosen, else as the system has it.
"use strict";
(function () {
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const follow = () => {
    if (!root.dataset.theme) root.dataset.bsTheme = dark.matches ? "dark" : "light";
  };
  follow();
  dark.addEventListener("change", follow);
  // The server writes instants in the zone that this cookie names.
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const secure = location.protocol === "https:" ? "; secure" : "";
  if (zone && root.dataset.zone !== zone && !document.cookie.includes("admin_zone=" + zone)) {
    document.cookie = "admin_zone=" + zone + "; path=/admin; max-age=31536000; samesite=lax" + secure;
    if (document.cookie.includes("admin_zone=" + zone) && root.dataset.instants) location.reload();
  }
})();

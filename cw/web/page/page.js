"use strict";
// textual.js reads the address of its websocket here. It is next to the page, whatever prefix a proxy has put before it.
const where = new URL("ws", window.location.href);
where.protocol = where.protocol === "https:" ? "wss:" : "ws:";
document.getElementById("terminal").dataset.sessionWebsocketUrl = where.href;
document.getElementById("again").addEventListener("click", () => window.location.reload());
// Keys go to the terminal, and not only after a click into it: as soon as the websocket, which hears of that, is open.
new MutationObserver((_, observer) => {
  if (document.body.classList.contains("-first-byte")) {
    observer.disconnect();
    document.querySelector(".xterm-helper-textarea").focus();
  }
}).observe(document.body, { attributeFilter: ["class"] });

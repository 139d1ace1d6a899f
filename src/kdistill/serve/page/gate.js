// Asks for the token where the server needs one.

import { ask } from "./api.js";
import { at } from "./dom.js";

/** `enter`: told of the session once the token is right. */
export function bindGate(enter) {
  at("gate").addEventListener("submit", async (event) => {
    event.preventDefault();
    at("gate-problem").textContent = "";
    try {
      await enter(await ask("/v1/session", { method: "POST", headers: { Authorization: `Bearer ${at("token").value}` } }));
    } catch (error) {
      at("gate-problem").textContent = error.status === 401 ? "This is not the right token." : error.message;
    }
  });
}

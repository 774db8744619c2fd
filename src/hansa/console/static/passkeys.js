"use strict";
// A button with data-passkey has the browser ask for a passkey before its form is sent: the address there says what to ask for.
(() => {
  const bytes = (text) =>
    Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (each) => each.charCodeAt(0));
  const text = (buffer) =>
    btoa(String.fromCharCode(...new Uint8Array(buffer))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  const named = (list) => (list || []).map((each) => ({ ...each, id: bytes(each.id) }));

  const create = async (asked) => {
    const made = await navigator.credentials.create({
      publicKey: {
        ...asked,
        challenge: bytes(asked.challenge),
        user: { ...asked.user, id: bytes(asked.user.id) },
        excludeCredentials: named(asked.excludeCredentials),
      },
    });
    const { clientDataJSON, attestationObject } = made.response;
    return {
      id: made.id,
      rawId: text(made.rawId),
      type: made.type,
      response: { clientDataJSON: text(clientDataJSON), attestationObject: text(attestationObject) },
    };
  };

  const get = async (asked) => {
    const shown = await navigator.credentials.get({
      publicKey: { ...asked, challenge: bytes(asked.challenge), allowCredentials: named(asked.allowCredentials) },
    });
    const { clientDataJSON, authenticatorData, signature, userHandle } = shown.response;
    return {
      id: shown.id,
      rawId: text(shown.rawId),
      type: shown.type,
      response: {
        clientDataJSON: text(clientDataJSON),
        authenticatorData: text(authenticatorData),
        signature: text(signature),
        ...(userHandle && userHandle.byteLength ? { userHandle: text(userHandle) } : {}),
      },
    };
  };

  const put = (form, name, value) => {
    const field = form.querySelector(`input[name="${name}"]`) || form.appendChild(document.createElement("input"));
    field.type = "hidden";
    field.name = name;
    field.value = JSON.stringify(value);
  };

  const tell = (form, said) => {
    const place = form.querySelector("[data-told]") || form.appendChild(document.createElement("p"));
    place.setAttribute("data-told", "");
    place.setAttribute("role", "alert");
    place.className = "refused";
    place.textContent = said;
  };

  document.addEventListener("submit", async (event) => {
    const form = event.target;
    const button = event.submitter;
    if (form.dataset.asked) {
      delete form.dataset.asked;
      return;
    }
    if (!button || !button.dataset.passkey) return;
    event.preventDefault();
    try {
      const fields = new FormData();
      const csrf = form.querySelector('input[name="csrf"]');
      if (csrf) fields.append("csrf", csrf.value);
      fields.append("path", new URL(button.hasAttribute("formaction") ? button.formAction : form.action).pathname);
      const answer = await fetch(button.dataset.passkey, { method: "POST", body: fields, headers: { Accept: "application/json" } });
      const asked = await answer.json();
      if (!answer.ok) throw new Error(asked.error);
      if (asked.get) put(form, "confirm", await get(asked.get));
      if (asked.create) put(form, "passkey", await create(asked.create));
    } catch (error) {
      tell(form, `No passkey was shown: ${error.message}`);
      return;
    }
    form.dataset.asked = "yes";
    form.requestSubmit(button);
  });
})();

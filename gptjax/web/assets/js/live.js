// How a live page asks its server; a page in a file has none and asks nobody.

// post: a JSON question and its answer. events: an answer that comes in pieces (server-sent
// events): onPiece gets each as JSON, and `signal` (of an AbortController) ends it early. An error
// has .message (one line for readers), .status, and .retryAfter in seconds where there is one.
export function makeLive() {
  async function ask(path, body, signal) {
    const how = body === undefined ? { signal } : { signal, method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
    const answer = await fetch(path, how);
    if (answer.ok) return answer;
    const said = await answer.json().catch(() => null);
    const error = new Error(said?.error?.message ?? `${answer.status} ${answer.statusText}`);
    error.status = answer.status;
    error.retryAfter = Number(answer.headers.get("retry-after")) || null;
    throw error;
  }
  return {
    get: async (path, signal) => (await ask(path, undefined, signal)).json(),
    post: async (path, body, signal) => (await ask(path, body, signal)).json(),
    async events(path, body, onPiece, signal) {
      const reader = (await ask(path, body, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
      let held = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        const parts = (held + value).split("\n\n");
        held = parts.pop();
        for (const part of parts) {
          const text = part.replace(/^data: /, "");
          if (text === "[DONE]") return;
          onPiece(JSON.parse(text));
        }
      }
    },
  };
}

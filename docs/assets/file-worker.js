// Search runs in a worker, and browsers start none for a page that was opened from a folder. There this stands in for
// it: the worker's script runs in a hidden frame, and messages go through the frame's window.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const own = new URL(url, location.href);
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.appendChild(this.frame);
      this.frame.contentDocument.open();
      this.frame.contentDocument.write("<body></body>");
      this.frame.contentDocument.close();
      const inner = this.frame.contentWindow;
      // What the worker's script calls.
      inner.importScripts = (...urls) => urls.reduce((done, one) => done.then(() => new Promise((resolve, reject) => {
        const script = inner.document.createElement("script");
        script.src = new URL(one, own);
        script.onload = resolve;
        script.onerror = reject;
        inner.document.body.appendChild(script);
      })), Promise.resolve());
      inner.postMessage = (data) => this.tell(data);
      inner.addEventListener("error", (event) => this.dispatchEvent(new ErrorEvent("error", { message: event.message })));
      this.ready = inner.importScripts(own);
    }
    tell(data) {
      const event = new MessageEvent("message", { data });
      this.dispatchEvent(event);
      if (this.onmessage) this.onmessage(event);
    }
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }
    terminate() {
      this.frame.remove();
    }
  };
}

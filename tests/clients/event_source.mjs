// `eventsource` from npm as an application uses it: prints the data of each event, one a line. Started by
// test_event_sources.py, which cuts its connection. Ends when it is refused for good, and prints the status.

import { EventSource } from "eventsource";

const { URL: url, TOKEN } = process.env;

const source = new EventSource(url, {
  fetch: (input, init) => fetch(input, { ...init, headers: { ...init.headers, Authorization: `Bearer ${TOKEN}` } }),
});
source.onmessage = ({ data }) => console.log(data);
source.onerror = ({ code }) => {
  if (source.readyState !== EventSource.CLOSED) return;
  console.log(JSON.stringify({ type: "closed", code }));
};

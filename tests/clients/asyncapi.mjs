// AsyncAPI's own parser on the document that is named: prints what it finds wrong, as JSON. Started by test_documents.py.

import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const [source] = process.argv.slice(2);
const { document, diagnostics } = await new Parser().parse(readFileSync(source, "utf8"), { source });
const problems = diagnostics.map(({ path, message }) => `${path.join(".")}: ${message}`);
console.log(JSON.stringify({ version: document?.version(), problems }));

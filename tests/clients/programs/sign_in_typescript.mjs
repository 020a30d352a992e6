// The official TypeScript clients sign in: `node sign_in_typescript.mjs URL DIRECTORY ERA PYTHON`; the one of
// release 1 in 2025-11-25, the one of release 2 in 2026-07-28.

import { execFileSync } from "node:child_process";
import { createRequire } from "node:module";
import { fileURLToPath, pathToFileURL } from "node:url";

const [url, directory, era, python] = process.argv.slice(2);
const installed = createRequire(`${directory}/`);
const load = (name) => import(pathToFileURL(installed.resolve(name)).href);
const modern = era === "2026-07-28";
const { Client } = await load(modern ? "@modelcontextprotocol/client" : "@modelcontextprotocol/sdk/client/index.js");
const { StreamableHTTPClientTransport } = await load(
  modern ? "@modelcontextprotocol/client" : "@modelcontextprotocol/sdk/client/streamableHttp.js",
);
const CALLBACK = "http://127.0.0.1:9/callback";
const person = fileURLToPath(new URL("person.py", import.meta.url));

const asked = [];
const stored = {};
const provider = {
  redirectUrl: CALLBACK,
  clientMetadata: { client_name: "trial", redirect_uris: [CALLBACK], token_endpoint_auth_method: "none" },
  clientInformation: () => stored.client,
  saveClientInformation: (client) => void (stored.client = client),
  tokens: () => stored.tokens,
  saveTokens: (tokens) => void (stored.tokens = tokens),
  codeVerifier: () => stored.verifier,
  saveCodeVerifier: (verifier) => void (stored.verifier = verifier),
  saveDiscoveryState: (state) => void (stored.discovery = state),
  discoveryState: () => stored.discovery,
  redirectToAuthorization: (page) => void asked.push(page.href),
};

async function connected() {
  const options = modern ? { versionNegotiation: { mode: { pin: era } } } : {};
  const client = new Client({ name: "trial", version: "0" }, options);
  const transport = new StreamableHTTPClientTransport(new URL(url), { authProvider: provider });
  return { client, transport };
}

// As hosts do it: what needs a sign-in fails, the person signs in, and it is done again.
async function signingIn(transport, attempt) {
  try {
    return await attempt();
  } catch (error) {
    const before = asked.length;
    if (before === 0) throw error;
    const back = new URL(execFileSync(python, [person, asked.at(-1), CALLBACK], { encoding: "utf8" }).trim());
    const answer = back.searchParams;
    if (!answer.get("code")) throw new Error(`answered with ${back}`);
    await transport.finishAuth(modern ? answer : answer.get("code"));
    return attempt();
  }
}

let { client, transport } = await connected();
try {
  await client.connect(transport);
} catch (error) {
  if (!asked.length) throw error;
  const back = new URL(execFileSync(python, [person, asked.at(-1), CALLBACK], { encoding: "utf8" }).trim());
  await transport.finishAuth(modern ? back.searchParams : back.searchParams.get("code"));
  ({ client, transport } = await connected());
  await client.connect(transport);
}
const tools = (await client.listTools()).tools.map((tool) => tool.name);
const result = await client.callTool({ name: "greet", arguments: { name: "Ada" } });
const before = asked.length;
const published = await signingIn(transport, () => client.callTool({ name: "publish", arguments: {} }));
console.log(
  JSON.stringify({
    version: modern ? client.getNegotiatedProtocolVersion() : transport.protocolVersion,
    found: tools.includes("greet"),
    result: result.content[0].text,
    published: published.content[0].text,
    asked: before,
    asked_again: asked.length - before,
  }),
);
process.exit(0);

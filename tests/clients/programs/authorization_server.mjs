// An authorization server that others wrote, where whoever comes is signed in as Ada and allows what is asked for.
// node authorization_server.mjs PORT RESOURCE DIRECTORY [JSON options], where its package is installed.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [port, resource, directory, more] = process.argv.slice(2);
const options = JSON.parse(more ?? "{}");
const installed = createRequire(`${directory}/`);
const { default: Provider } = await import(pathToFileURL(installed.resolve("oidc-provider")).href);

const SCOPES = "tasks:call tasks:read tasks:cancel tasks:answer reports:write";
const issuer = `http://127.0.0.1:${port}`;
const provider = new Provider(issuer, {
  clients: options.clients ?? [],
  scopes: ["openid", "offline_access", ...SCOPES.split(" ")],
  features: {
    devInteractions: { enabled: false },
    registration: { enabled: options.registers ?? true },
    introspection: { enabled: true, allowedPolicy: () => true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => resource,
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        scope: SCOPES,
        audience: options.audience ?? resource,
        accessTokenFormat: options.format ?? "jwt",
        accessTokenTTL: 600,
        jwt: { sign: { alg: "RS256" } },
      }),
    },
  },
  pkce: { required: () => true },
  interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
});

// It would otherwise hold clients for ever to the scopes that they knew of when they registered.
async function registeredWithoutScopes(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  const { scope, ...metadata } = JSON.parse(Buffer.concat(parts));
  return metadata;
}

provider.use(async (ctx, next) => {
  if (ctx.path === "/reg" && ctx.method === "POST") ctx.req.body = await registeredWithoutScopes(ctx.req);
  if (!ctx.path.startsWith("/interaction/")) {
    await next();
    const back = ctx.response.get("location");
    // As servers do that do not follow RFC 9207.
    if (options.unnamed && back) ctx.set("location", back.replace(/[?&]iss=[^&]*/, ""));
    return;
  }
  const { uid, prompt, params, session } = await provider.interactionDetails(ctx.req, ctx.res);
  if (prompt.name === "login") {
    ctx.respond = false;
    return provider.interactionFinished(ctx.req, ctx.res, { login: { accountId: "ada" } });
  }
  const grant = new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope(`openid offline_access ${SCOPES}`);
  grant.addResourceScope(resource, SCOPES);
  ctx.respond = false;
  return provider.interactionFinished(ctx.req, ctx.res, { consent: { grantId: await grant.save() } });
});

provider.on("server_error", (_, error) => console.error(error));
provider.listen(Number(port), "127.0.0.1", () => console.log(JSON.stringify({ issuer })));

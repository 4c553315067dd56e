// An OpenID provider on loopback, for the tests: node provider.mjs PORT REDIRECT_URI. It takes any name and password.
import { Provider } from "oidc-provider";

const [port, redirect] = process.argv.slice(2);
const issuer = `http://127.0.0.1:${port}`;
const provider = new Provider(issuer, {
  clients: [{ client_id: "page", client_secret: "a secret of the page for tests", redirect_uris: [redirect] }],
  claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name"] },
  // As the MCP server needs it: access tokens that are signed for a resource and name the person; clients register alone.
  features: {
    registration: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      useGrantedResource: () => true,
      getResourceServerInfo: (_, resource) => ({
        scope: "openid email offline_access",
        audience: resource,
        accessTokenFormat: "jwt",
        jwt: { sign: { alg: "RS256" } },
      }),
    },
  },
  extraTokenClaims: async (_, token) => ({
    email: `${token.accountId}@Corp.example`,
    email_verified: !String(token.accountId).startsWith("unverified"),
  }),
  cookies: { keys: ["a key for tests"] },
  findAccount: async (_, id) => ({
    accountId: id,
    claims: async () => ({ sub: id, email: `${id}@Corp.example`, email_verified: !id.startsWith("unverified") }),
  }),
});
provider.listen(Number(port), "127.0.0.1", () => console.log(`the provider is at ${issuer}`));

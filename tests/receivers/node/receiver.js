// A merchant's endpoint: verifies what comes, answers 204 or 400, and tells at GET / what it thought of each request.
// The official library verifies `v1` and passes over `v1a`, which Node can verify by itself.

import { createPublicKey, verify } from "node:crypto";
import { createServer } from "node:http";
import { Webhook } from "standardwebhooks";

const secret = process.env.WEBHOOK_SECRET;
const verdicts = [];

function verified(headers, body) {
  return secret.startsWith("whpk_") ? verifiedByNode(headers, body) : new Webhook(secret).verify(body, headers);
}

function verifiedByNode(headers, body) {
  const { "webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": signatures } = headers;
  if (!(Math.abs(Date.now() / 1000 - Number(timestamp)) <= 300)) throw new Error("the timestamp is not of now");
  const x = Buffer.from(secret.slice("whpk_".length), "base64").toString("base64url");
  const key = createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" });
  const content = Buffer.concat([Buffer.from(`${id}.${timestamp}.`), body]);
  const matches = signatures
    .split(" ")
    .map((entry) => entry.split(","))
    .some(([scheme, signature]) => scheme === "v1a" && verify(null, content, key, Buffer.from(signature, "base64")));
  if (!matches) throw new Error("no v1a signature matches");
  return JSON.parse(body);
}

const server = createServer(async (request, response) => {
  if (request.method === "GET") return response.end(JSON.stringify(verdicts));
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const verdict = { id: request.headers["webhook-id"] ?? "", type: null, error: null };
  try {
    verdict.type = verified(request.headers, Buffer.concat(chunks)).type;
  } catch (error) {
    verdict.error = String(error);
  }
  verdicts.push(verdict);
  if (verdict.error === null) response.writeHead(204).end();
  else response.writeHead(400).end(verdict.error);
});

server.listen(0, "127.0.0.1", () => console.log(server.address().port));

// Whoever started this process holds its standard input: it does not outlive them.
process.stdin.resume().on("end", () => process.exit());

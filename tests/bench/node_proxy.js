// The 20-line proxy one writes in Node: node node_proxy.js PORT ORIGIN
const http = require("node:http");
const [port, origin] = process.argv.slice(2).map(Number);
const agent = new http.Agent({ keepAlive: true, maxSockets: Infinity, maxFreeSockets: 1024 });

const server = http.createServer((request, response) => {
  const { method, url: path, rawHeaders } = request;
  const headers = rawHeaders.filter((_, i) => rawHeaders[i - (i % 2)].toLowerCase() !== "connection");
  const upstream = http.request({ host: "127.0.0.1", port: origin, agent, method, path, headers }, (answer) => {
    response.writeHead(answer.statusCode, answer.statusMessage, answer.rawHeaders);
    answer.pipe(response);
    answer.on("error", () => response.destroy());
  });
  upstream.on("error", () => (response.headersSent ? response.destroy() : response.writeHead(502).end()));
  response.on("close", () => response.writableFinished || upstream.destroy());
  request.pipe(upstream);
});
server.keepAliveTimeout = 75000;
server.listen({ port, host: "127.0.0.1", backlog: 4096 });

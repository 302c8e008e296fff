// An S3 server that checks signatures, over the directory named by the first argument, with the bucket of the second.
// It says its port, and ends with whoever holds its standard input.

const S3rver = require("s3rver");

const [directory, bucket] = process.argv.slice(2);
const server = new S3rver({ address: "127.0.0.1", port: 0, silent: true, directory, configureBuckets: [{ name: bucket }] });

server.run().then(({ port }) => console.log(port));

process.stdin.resume().on("end", () => process.exit());

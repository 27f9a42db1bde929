// Runs kinesis-local on a free loopback port, prints it, and ends when stdin does: with its parent, however that ends.
"use strict";
const net = require("net");
const path = require("path");

const HTTP = 4568; // beside 4567 for HTTPS

Object.assign(process.env, {
  KINESIS_MOCK_PLAIN_PORT: HTTP,
  CREATE_STREAM_DURATION: "0ms",
  MERGE_SHARDS_DURATION: "0ms",
  SHARD_LIMIT: "10000",
  LOG_LEVEL: "ERROR",
});

// It has no option for the interface, listens on all of them, and does not say which port it got for 0.
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (port, ...others) {
  if (port === HTTP) {
    this.once("listening", () => console.log(this.address().port));
  }
  return listen.call(this, 0, "127.0.0.1", others.at(-1));
};

// process.exit would wait half a minute for connections to close.
process.stdin.resume().on("end", () => process.kill(process.pid, "SIGKILL"));
const main = require.resolve("kinesis-local");
process.chdir(path.dirname(main)); // its certificate lies there
require(main);

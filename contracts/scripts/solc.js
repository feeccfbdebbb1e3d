#!/usr/bin/env node
// Stands in for a native solc, so that forge compiles with the same pinned compiler as scripts/build.mjs.
'use strict';
const solc = require('solc');

if (process.argv.includes('--version')) {
  const version = solc.version().replace('Emscripten.clang', 'Linux.g++');
  process.stdout.write(`solc, the solidity compiler commandline interface\nVersion: ${version}\n`);
} else if (process.argv.includes('--standard-json')) {
  process.stdout.write(solc.compile(require('fs').readFileSync(0, 'utf8')));
} else {
  process.stderr.write('usage: solc.js --version | --standard-json\n');
  process.exit(2);
}

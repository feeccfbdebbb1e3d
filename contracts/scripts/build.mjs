// Compiles the contracts to artifacts/*.json, and those that only tests use to contractstest/artifacts/*.json: ABI,
// creation code, runtime code and where the immutables lie in it.
// With --check it writes nothing and fails if a committed artifact differs.
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const solc = createRequire(import.meta.url)('solc');
const folder = dirname(dirname(fileURLToPath(import.meta.url)));
// What is compiled together, from where to where. A group sees only its own files and what they import, so that adding to
// one leaves the bytecode of the others alone.
const groups = [
  { from: ['src'], to: 'artifacts', contracts: ['Vault', 'ClearingHouse', 'TestDollar'] },
  { from: ['src/dev'], to: 'artifacts', contracts: ['Permit2', 'ExactProxy', 'UptoProxy', 'Multicall3', 'Deployer', 'TestTether', 'ValidationRegistry'] },
  { from: ['test/dev', 'src'], to: 'contractstest/artifacts', contracts: ['HostileDollar', 'SmartWallet', 'StubbornWallet', 'WalletFactory'] },
];
const sizeLimit = 24576; // EIP-170

const check = process.argv.includes('--check');
let differ = false;
for (const group of groups) build(group);
process.exit(differ ? 1 : 0);

function build({ from, to, contracts }) {
  const sources = {};
  for (const dir of from) {
    for (const name of readdirSync(join(folder, dir)).filter((f) => f.endsWith('.sol')).sort()) {
      sources[`${dir}/${name}`] = { content: readFileSync(join(folder, dir, name), 'utf8') };
    }
  }
  const output = JSON.parse(solc.compile(JSON.stringify({
    language: 'Solidity',
    sources,
    settings: {
      evmVersion: 'prague',
      viaIR: true,
      optimizer: { enabled: true, runs: 1000 },
      metadata: { appendCBOR: false, bytecodeHash: 'none' },
      outputSelection: {
        '*': { '*': ['abi', 'evm.bytecode.object', 'evm.deployedBytecode.object', 'evm.deployedBytecode.immutableReferences'] },
      },
    },
  })));
  for (const e of output.errors ?? []) process.stderr.write(e.formattedMessage);
  if ((output.errors ?? []).some((e) => e.severity === 'error')) process.exit(1);
  mkdirSync(join(folder, to), { recursive: true });
  for (const name of contracts) write(to, name, output.contracts[`${from[0]}/${name}.sol`][name]);
}

function write(to, name, { abi, evm }) {
  const spans = Object.values(evm.deployedBytecode.immutableReferences ?? {}).flat()
    .map(({ start, length }) => ({ start, length }))
    .sort((a, b) => a.start - b.start);
  const text = JSON.stringify({
    contract: name,
    compiler: solc.version().split('.Emscripten')[0],
    abi,
    bytecode: '0x' + evm.bytecode.object,
    deployedBytecode: '0x' + evm.deployedBytecode.object,
    immutableReferences: spans,
  }, null, 1) + '\n';
  const size = evm.deployedBytecode.object.length / 2;
  console.log(`${name}: ${size} of ${sizeLimit} bytes`);
  if (size > sizeLimit) {
    console.error(`${name} is too large to deploy`);
    process.exit(1);
  }
  const path = join(folder, to, `${name}.json`);
  if (!check) {
    writeFileSync(path, text);
    return;
  }
  let committed = '';
  try { committed = readFileSync(path, 'utf8'); } catch { /* missing counts as different */ }
  if (committed !== text) {
    console.error(`${to}/${name}.json differs from what the sources compile to: run npm run build`);
    differ = true;
  }
}

// Compiles src/ to artifacts/*.json: ABI, creation code, runtime code and where the immutables lie in it.
// With --check it writes nothing and fails if a committed artifact differs.
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const solc = createRequire(import.meta.url)('solc');
const folder = dirname(dirname(fileURLToPath(import.meta.url)));
const contracts = ['Vault', 'ClearingHouse', 'TestDollar'];
const sizeLimit = 24576; // EIP-170

const sources = {};
for (const name of readdirSync(join(folder, 'src')).filter((f) => f.endsWith('.sol')).sort()) {
  sources[`src/${name}`] = { content: readFileSync(join(folder, 'src', name), 'utf8') };
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

const check = process.argv.includes('--check');
let differ = false;
mkdirSync(join(folder, 'artifacts'), { recursive: true });
for (const name of contracts) {
  const { abi, evm } = output.contracts[`src/${name}.sol`][name];
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
  const path = join(folder, 'artifacts', `${name}.json`);
  if (!check) {
    writeFileSync(path, text);
    continue;
  }
  let committed = '';
  try { committed = readFileSync(path, 'utf8'); } catch { /* missing counts as different */ }
  if (committed !== text) {
    console.error(`artifacts/${name}.json differs from what src/ compiles to: run npm run build`);
    differ = true;
  }
}
process.exit(differ ? 1 : 0);

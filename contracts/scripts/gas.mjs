// Runs the gas tests and compares what each call costs with .gas-snapshot. With --update it writes the file instead.
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const folder = dirname(dirname(fileURLToPath(import.meta.url)));
const run = spawnSync(process.execPath, [join(folder, 'scripts', 'forge.mjs'), 'test', '--match-contract', 'GasTest', '-vv'], {
  encoding: 'utf8',
  env: { ...process.env, NO_COLOR: '1' },
});
if (run.status !== 0) {
  process.stderr.write(run.stdout + run.stderr);
  process.exit(1);
}
const lines = [...run.stdout.matchAll(/^ {2}(.+): (\d+)$/gm)].map((m) => `${m[1]}: ${m[2]}`).sort();
const text = lines.join('\n') + '\n';
const path = join(folder, '.gas-snapshot');
if (process.argv.includes('--update')) {
  writeFileSync(path, text);
} else if (readFileSync(path, 'utf8') !== text) {
  console.error(`.gas-snapshot differs; now:\n${text}run npm run gas -- --update if that is meant`);
  process.exit(1);
}
console.log(`${lines.length} figures`);

// Runs the pinned forge of this platform in this folder, wherever npm was started.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const folder = dirname(dirname(fileURLToPath(import.meta.url)));
const cpu = process.arch === 'x64' ? 'amd64' : process.arch;
const suffix = process.platform === 'win32' ? '.exe' : '';
const forge = join(folder, 'node_modules', '@foundry-rs', `forge-${process.platform}-${cpu}`, 'bin', `forge${suffix}`);
if (!existsSync(forge)) {
  console.error(`no forge for ${process.platform}-${cpu}: run npm ci; other platforms need forge-${process.platform}-${cpu} among the optionalDependencies`);
  process.exit(1);
}
const run = spawnSync(forge, process.argv.slice(2), { cwd: folder, stdio: 'inherit' });
process.exit(run.status ?? 1);

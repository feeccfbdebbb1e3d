// Runs the pinned forge from this folder, wherever npm was started.
import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const folder = dirname(dirname(fileURLToPath(import.meta.url)));
const forge = join(folder, 'node_modules', '@foundry-rs', 'forge', 'bin.mjs');
const run = spawnSync(process.execPath, [forge, ...process.argv.slice(2)], { cwd: folder, stdio: 'inherit' });
process.exit(run.status ?? 1);

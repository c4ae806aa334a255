#!/usr/bin/env node
/** What a user types: `ciel`. This file is the process; program.ts is the command line. */
import { run } from './program.ts';
import { processTerminal } from './terminal.ts';

const interrupted = new AbortController();
// The first Ctrl-C ends a watching command in order; the second ends the process.
process.once('SIGINT', () => interrupted.abort());
// `ciel status | head`: whoever reads has seen enough.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));

const terminal = processTerminal();
process.exitCode = await run(process.argv.slice(2), { terminal, env: process.env, signal: interrupted.signal });

/** Options that several commands have, with their parsers. */
import { InvalidArgumentError, Option } from 'commander';
import { parseDuration } from '../model/spec.ts';

/** "30s", "5m": in milliseconds for the command. */
export function durationOption(flags: string, description: string, byDefault: string): Option {
  return new Option(flags, description).argParser(durationArgument).default(durationArgument(byDefault), byDefault);
}

function durationArgument(text: string): number {
  const milliseconds = parseDuration(text);
  if (milliseconds !== null) return milliseconds;
  throw new InvalidArgumentError('A duration such as 500ms, 30s or 5m is expected.');
}

/**
 * Container images without an engine: a directory tree becomes one layer, and image and registry storage are written as
 * the OCI image specification and Docker's registry ("distribution") lay them down.
 *
 * Layers are not compressed: unpacking gzip takes longer on an emulated processor than the network saves.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { copyFile, mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';

export interface ImageSettings {
  readonly command: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  readonly port: number;
}

interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
}

const MANIFEST_TYPE = 'application/vnd.oci.image.manifest.v1+json';
const CONFIG_TYPE = 'application/vnd.oci.image.config.v1+json';
const LAYER_TYPE = 'application/vnd.oci.image.layer.v1.tar';
/** Names the manifest among an image's blobs. */
const MANIFEST_LINK = 'manifest';

/** Fills `image` with the image's blobs, named by their digests. */
export async function packImage(image: string, tree: string, settings: ImageSettings): Promise<void> {
  const tar = join(image, 'layer');
  const reproducible = ['--sort=name', '--mtime=@0', '--numeric-owner', '--owner=0', '--group=0'];
  await execa('tar', [...reproducible, '-C', tree, '-cf', tar, '.']);
  const layer = { mediaType: LAYER_TYPE, digest: await fileDigest(tar), size: (await stat(tar)).size };
  await rename(tar, join(image, layer.digest));
  const config = await writeBlob(image, CONFIG_TYPE, {
    architecture: 'amd64',
    os: 'linux',
    config: {
      Cmd: settings.command,
      Env: Object.entries(settings.environment).map(([name, value]) => `${name}=${value}`),
      ExposedPorts: { [`${settings.port}/tcp`]: {} },
      WorkingDir: '/',
    },
    rootfs: { type: 'layers', diff_ids: [layer.digest] },
  });
  const manifest = await writeBlob(image, MANIFEST_TYPE, {
    schemaVersion: 2,
    mediaType: MANIFEST_TYPE,
    config,
    layers: [layer],
  });
  await writeFile(join(image, MANIFEST_LINK), manifest.digest);
}

/** Adds a packed image to a registry's storage directory. */
export async function storeImage(storage: string, image: string, repository: string, tag: string): Promise<void> {
  const root = join(storage, 'docker/registry/v2');
  const manifestDigest = await readFile(join(image, MANIFEST_LINK), 'utf8');
  const manifest = JSON.parse(await readFile(join(image, manifestDigest), 'utf8')) as {
    readonly config: Descriptor;
    readonly layers: readonly Descriptor[];
  };
  const parts = [manifest.config, ...manifest.layers].map(({ digest }) => digest);
  for (const digest of [manifestDigest, ...parts]) {
    const hex = hexOf(digest);
    const blob = join(root, 'blobs/sha256', hex.slice(0, 2), hex);
    await mkdir(blob, { recursive: true });
    await copyFile(join(image, digest), join(blob, 'data'));
  }
  const of = join(root, 'repositories', repository);
  for (const digest of parts) await writeLink(join(of, '_layers/sha256', hexOf(digest)), digest);
  await writeLink(join(of, '_manifests/revisions/sha256', hexOf(manifestDigest)), manifestDigest);
  await writeLink(join(of, '_manifests/tags', tag, 'current'), manifestDigest);
  await writeLink(join(of, '_manifests/tags', tag, 'index/sha256', hexOf(manifestDigest)), manifestDigest);
}

const hexOf = (digest: string) => digest.slice('sha256:'.length);

async function writeLink(directory: string, digest: string): Promise<void> {
  await mkdir(directory, { recursive: true });
  await writeFile(join(directory, 'link'), digest);
}

async function writeBlob(image: string, mediaType: string, content: unknown): Promise<Descriptor> {
  const bytes = Buffer.from(JSON.stringify(content));
  const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
  await writeFile(join(image, digest), bytes);
  return { mediaType, digest, size: bytes.length };
}

async function fileDigest(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return `sha256:${hash.digest('hex')}`;
}

// JSON-RPC 1.0 messages as OVSDB exchanges them (RFC 7047 §4, jsonrpc.org 1.0 specification), both
// directions.

import { isObject, type Json, JsonError, type JsonObject, stringifyJson } from './json.ts';

export type RpcMessage =
  | { kind: 'request'; method: string; params: readonly Json[]; id: Json }
  | { kind: 'notification'; method: string; params: readonly Json[] }
  | { kind: 'reply'; result: Json; id: Json }
  | { kind: 'error'; error: Json; id: Json };

const MEMBERS = ['method', 'params', 'result', 'error', 'id'];

/**
 * Tells what a JSON text is. A member that is null counts as absent; what is present decides the
 * kind, and exactly the members of that kind may be present. Throws JsonError: the peer does not
 * speak JSON-RPC.
 */
export function parseRpc(json: Json): RpcMessage {
  if (!isObject(json)) throw new JsonError('message is not a JSON object');
  const stranger = Object.keys(json).find((name) => !MEMBERS.includes(name));
  if (stranger !== undefined) throw new JsonError(`message has unexpected member "${stranger}"`);
  const { method, params, result, error, id } = json as Partial<Record<string, Json>>;
  if (method !== undefined && typeof method !== 'string') {
    throw new JsonError('method is not a JSON string');
  }
  const has = (value: Json | undefined): value is Exclude<Json, null> => (value ?? null) !== null;
  if (has(params) && !Array.isArray(params)) throw new JsonError('"params" must be JSON array');
  const kind = has(result) ? 'reply' : has(error) ? 'error' : has(id) ? 'request' : 'notification';
  const call = kind === 'request' || kind === 'notification';
  const must: [string, Json | undefined, boolean][] = [
    ['method', method, call],
    ['params', params, call],
    ['result', result, kind === 'reply'],
    ['error', error, kind === 'error'],
    ['id', id, kind !== 'notification'],
  ];
  for (const [name, value, wanted] of must) {
    if (has(value) !== wanted) {
      throw new JsonError(`${kind} must${wanted ? '' : ' not'} have "${name}"`);
    }
  }
  switch (kind) {
    case 'request':
      return { kind, method: method!, params: params as Json[], id: id! };
    case 'notification':
      return { kind, method: method!, params: params as Json[] };
    case 'reply':
      return { kind, result: result!, id: id! };
    case 'error':
      return { kind, error: error!, id: id! };
  }
}

function toJson(message: RpcMessage): JsonObject {
  switch (message.kind) {
    case 'request':
      return { id: message.id, method: message.method, params: message.params };
    case 'notification':
      return { id: null, method: message.method, params: message.params };
    case 'reply':
      return { id: message.id, result: message.result, error: null };
    case 'error':
      return { id: message.id, result: null, error: message.error };
  }
}

export function formatRpc(message: RpcMessage): string {
  return stringifyJson(toJson(message));
}

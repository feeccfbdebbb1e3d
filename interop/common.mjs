// What the scripts share. Each takes one JSON object as its argument and prints one JSON object a line.
import { createWalletClient, defineChain, http, publicActions } from 'viem';
import { privateKeyToAccount } from 'viem/accounts';

console.log = console.error; // what a package prints is no result

export const options = JSON.parse(process.argv[2] ?? '{}');

// say prints one result.
export function say(result) {
  process.stdout.write(JSON.stringify(result, (_, v) => (typeof v === 'bigint' ? v.toString() : v)) + '\n');
}

// chainOf describes the chain behind an RPC URL; viem wants to know before it asks.
export function chainOf(id, rpc) {
  return defineChain({
    id, name: `chain ${id}`, nativeCurrency: { name: 'Ether', symbol: 'ETH', decimals: 18 },
    rpcUrls: { default: { http: [rpc] } },
  });
}

// sender signs and sends as one account, as a facilitator wants it. Transactions go one after another and take the node's
// word for their nonce: viem's own count of nonces loses one for every transaction whose gas estimate fails, and then
// nothing is mined any more.
export function sender(id, rpc, key) {
  const client = createWalletClient({
    account: privateKeyToAccount(key), chain: chainOf(id, rpc), transport: http(rpc), pollingInterval: 100,
  }).extend(publicActions);
  let last = Promise.resolve();
  const inTurn = (send) => {
    const sent = last.then(send);
    last = sent.catch(() => {});
    return sent;
  };
  return {
    address: client.account.address,
    getCode: (a) => client.getCode(a),
    readContract: (a) => client.readContract({ ...a, args: a.args ?? [] }),
    verifyTypedData: (a) => client.verifyTypedData(a),
    writeContract: (a) => inTurn(() => client.writeContract({ ...a, args: a.args ?? [] })),
    sendTransaction: (a) => inTurn(() => client.sendTransaction(a)),
    waitForTransactionReceipt: (a) => client.waitForTransactionReceipt(a),
  };
}

// decode reads a header of base64 JSON as it stands, without any package's help; undefined if there is none.
export function decode(header) {
  return header ? JSON.parse(Buffer.from(header, 'base64').toString('utf8')) : undefined;
}

// paying is a fetch that remembers what a client sent with it: the terms that it answered and the payment. With
// options.hold it does not send the payment but answers 299 in the seller's place, so that a test can do what it likes
// with the payment.
export function paying() {
  const seen = {};
  const spy = async (input, init) => {
    const request = new Request(input, init);
    for (const name of ['PAYMENT-SIGNATURE', 'X-PAYMENT']) {
      if (!request.headers.has(name)) continue;
      seen.attempts = (seen.attempts ?? 0) + 1;
      seen.header = name;
      seen.payment = request.headers.get(name);
      if (options.hold) return new Response('', { status: 299 });
    }
    const response = await fetch(request);
    if (response.status === 402 && !seen.payment) {
      seen.terms = decode(response.headers.get('PAYMENT-REQUIRED'));
      seen.body = await response.clone().text();
    }
    return response;
  };
  return { spy, seen };
}

// request is the init of the request that the options ask for.
export function request(n) {
  return { method: options.method ?? 'GET', headers: options.headers, body: options.bodies?.[n] ?? options.body };
}

// buy makes options.times requests, options.parallel of them at a time, and says how each ended. call gets a fetch and an
// init, and returns the response.
export async function buy(call) {
  let next = 0;
  const one = async () => {
    for (let n = next++; n < (options.times ?? 1); n = next++) {
      const { spy, seen } = paying();
      const result = { n };
      try {
        const response = await call(spy, request(n));
        result.status = response.status;
        result.body = await response.text();
        result.receiptHeader = response.headers.get('PAYMENT-RESPONSE') ?? undefined;
      result.receipt = decode(response.headers.get('PAYMENT-RESPONSE') ?? response.headers.get('X-PAYMENT-RESPONSE'));
        if (response.status === 402) result.refusal = decode(response.headers.get('PAYMENT-REQUIRED'))?.error ?? JSON.parse(result.body || '{}').error;
      } catch (e) {
        result.error = e instanceof Error ? e.message : String(e);
      }
      say({ ...result, terms: seen.terms, offered: seen.body, header: seen.header, payment: seen.payment, attempts: seen.attempts ?? 0 });
    }
  };
  await Promise.all(Array.from({ length: options.parallel ?? 1 }, one));
}

// serve listens on a free port of the loopback, says where, and ends with standard input, so that no server outlives
// the test that started it.
export function serve(app) {
  const server = app.listen(0, '127.0.0.1', () => say({ url: `http://127.0.0.1:${server.address().port}` }));
  process.stdin.on('end', () => process.exit(0)).resume();
}

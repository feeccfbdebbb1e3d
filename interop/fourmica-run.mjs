// What a user of 4Mica's client does, against farthing: one scenario a run. Each fact is one line {"did": …}; what is not as the
// protocol has it ends the run with an error.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { getAddress, keccak256, toHex, zeroAddress } from 'viem';
import { options, say } from './common.mjs';
import { Client, CoreError, agent, clearingHouse, cycleId, envelope, fold, leafOf, unwrap, validationRegistry, wrap } from './fourmica.mjs';

const did = (what, more = {}) => say({ did: what, ...more });
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const dollars = (n) => BigInt(Math.round(n * 1e6));
const randomId = () => toHex(crypto.getRandomValues(new Uint8Array(16)));

// until asks again until ask gives something, for as long as a cycle may take.
async function until(what, ask, seconds = 60) {
  for (const end = Date.now() + seconds * 1000; ; await sleep(150)) {
    const got = await ask();
    if (got !== undefined && got !== false) return got;
    if (Date.now() > end) throw new Error(`${what}: not after ${seconds} s`);
  }
}

// soon is an answer of the core that may come later.
const soon = (ask) => async () => {
  try {
    return await ask();
  } catch (e) {
    if (e instanceof CoreError && (e.status === 400 || e.status === 404)) return undefined;
    throw e;
  }
};

// refused expects an answer of the core that is no success.
async function refused(status, ask) {
  try {
    await ask();
  } catch (e) {
    assert(e instanceof CoreError, e.stack);
    assert.equal(e.status, status, e.message);
    assert.notEqual(e.message, '');
    return e.message;
  }
  throw new Error(`not refused with ${status}`);
}

async function open(key) {
  const c = new Client({ url: options.core, key });
  await c.connect();
  return c;
}

async function asset(c) {
  const { chain_id, tokens } = await c.tokens_();
  assert.equal(chain_id, c.params.chain_id);
  const usdc = tokens.find((t) => t.symbol === 'USDC');
  assert.equal(usdc.decimals, 6);
  assert((await c.view('getERC20Tokens')).map(getAddress).includes(getAddress(usdc.address)));
  return getAddress(usdc.address);
}

// funded deposits, and waits until the core counts it. A cycle that ends meanwhile may take something.
async function funded(c, token, amount) {
  const before = BigInt((await c.assetBalance(token))?.total ?? 0);
  await c.deposit(token, amount);
  return until('deposit', async () => {
    const b = await c.assetBalance(token);
    return b && BigInt(b.total) > before + amount / 2n ? b : undefined;
  });
}

const scenarios = {
  // vectors: that the client signs and reads the published bytes.
  async vectors() {
    const read = (path) => JSON.parse(readFileSync(new URL(path, import.meta.url), 'utf8'));
    const v = read('../guarantee/testdata/4mica-credit.json');
    const c = new Client({ url: 'http://127.0.0.1:1', key: v.common.privateKey });
    const { name, version, chainId } = v.common.eip712Domain;
    c.params = { eip712_name: name, eip712_version: version, chain_id: chainId };
    c.key = Uint8Array.from(v.bls.publicKeyJson);
    c.domains = { 1: v.common.guaranteeDomainSeparatorV1, 2: v.common.guaranteeDomainSeparatorV2_exampleOnly };
    const terms = { recipient: v.v1.inputs.recipient, asset: v.v1.inputs.asset, amount: v.v1.inputs.amount, reqId: v.v1.inputs.reqId, timestamp: v.v1.inputs.timestamp };
    const [first, second] = [c.claims(terms), c.claims({ ...terms, policy: v.v2.inputs.policy })];
    assert.deepEqual(await c.sign(first), v.v1.requestBody);
    assert.deepEqual(await c.sign(second), v.v2.requestBody);
    assert.equal((await c.sign(first, 'eip191')).signature, v.v1.eip191.rustCoreSignature);
    assert.equal((await c.sign(first, 'eip191-text')).signature, v.v1.eip191.typescriptSdkSignature);
    assert.equal((await c.sign(second, 'eip191-text')).signature, v.v2.eip191.typescriptSdkSignature);
    assert.deepEqual(envelope({}, v.x402.paymentRequirementsV1, v.v1.requestBody, 1), v.x402.v1_decoded);
    assert.deepEqual(envelope({ resource: v.x402.v2_decoded.resource }, v.x402.paymentRequirementsV2, v.v1.requestBody, 2), v.x402.v2_decoded);
    for (const [cert, claims] of [[v.certificateV1, first], [v.certificateV2, second]]) {
      const got = c.verify({ claims: cert.claims, signature: cert.signature }, claims);
      assert.equal(got.cycleId, BigInt(cert.inputs.cycleId));
      assert.throws(() => c.verify({ claims: cert.claims, signature: v.negative.certificate.wrongKey.signature }, claims));
      assert.throws(() => c.verify({ claims: cert.claims, signature: cert.signature }, { ...claims, amount: '0x1' }));
    }
    const merkle = read('../clearing/testdata/clearing-merkle.json');
    for (const p of merkle.participants.filter((x) => x.leaf)) {
      const { clearingHouse: house, cycleIdBytes32: cycle, asset: token } = merkle.inputs;
      assert.equal(leafOf(merkle.inputs.chainId, house, cycle, token, getAddress(p.participant), p.amount, p.role === 'NET_DEBTOR' ? 0 : 1), p.leaf);
      assert.equal(fold(p.leaf, p.proof), merkle.root);
    }
    const siwe = read('../login/testdata/siwe.json');
    const { nonce, ...asked } = siwe.inputs;
    assert.deepEqual(await c.signMessage({ nonce, siwe: asked }), { address: c.address, message: siwe.message, signature: siwe.signature });
    did('vectors', { merkle: merkle.participants.length });
  },

  // core: parameters, login, tokens, deposit, guarantees, reads.
  async core() {
    const [buyer, seller] = await Promise.all(options.keys.map(open));
    const p = buyer.params;
    assert(Array.isArray(p.public_key) && p.public_key.length === 48 && p.public_key.every((b) => Number.isInteger(b) && b >= 0 && b < 256));
    assert.match(p.ethereum_http_rpc_url, /^http/);
    assert.equal(p.validation_hash_canonicalization_version, '4MICA_VALIDATION_REQUEST_V2');
    did('params', { versions: buyer.versions, name: p.eip712_name, second: buyer.second.enabled });

    const health = await buyer.request('GET', '/core/health');
    assert.deepEqual([health.status, health.db, health.chain_rpc], ['ok', 'ok', 'ok']);
    await refused(401, () => buyer.request('GET', `/core/recipients/${buyer.address}/payments`));
    await buyer.login();
    const login = await buyer.signIn();
    await refused(401, () => buyer.request('POST', '/auth/verify', { ...login, address: seller.address }));
    const forged = await seller.account.signMessage({ message: login.message });
    assert([400, 401].includes(await buyer.request('POST', '/auth/verify', { ...login, signature: forged }).then(() => 200, (e) => e.status)));
    buyer.keep(await buyer.request('POST', '/auth/verify', login));
    await refused(401, () => buyer.request('POST', '/auth/verify', login)); // a nonce is good once
    did('login', { expires: Math.round((buyer.tokens.ends - Date.now()) / 1000) });

    const old = { ...buyer.tokens };
    buyer.tokens.ends = Date.now() + 30_000; // the client renews a minute before the end
    await buyer.payments();
    assert.notEqual(buyer.tokens.access, old.access);
    assert.notEqual(buyer.tokens.refresh, old.refresh);
    await refused(401, () => buyer.request('POST', '/auth/refresh', { refresh_token: old.refresh }));
    buyer.tokens.ends = 0;
    buyer.tokens.refresh = 'refresh_none';
    await buyer.payments(); // by a login of its own
    did('refresh');

    const token = await asset(buyer);
    const house = p.clearing_house_address;
    const balance = await funded(buyer, token, dollars(5));
    assert.equal(balance.user_address.toLowerCase(), buyer.address.toLowerCase());
    assert.match(balance.total, /^0x[0-9a-f]+$/);
    assert.match(balance.locked, /^0x[0-9a-f]+$/);
    assert.equal(await seller.assetBalance(token), null);
    const all = await buyer.view('getUserAllAssets', buyer.address);
    assert.equal(all[0].asset, zeroAddress);
    const held = all.find((a) => a.asset === token);
    assert.equal(held.collateral, BigInt(balance.total));
    assert.equal(held.withdrawalRequestAmount, 0n);
    assert.equal(await buyer.view('guaranteeCapacity', buyer.address, token), held.collateral);
    assert.equal(await buyer.view('principalBalance', buyer.address, token), held.collateral);
    assert.equal(await buyer.allowance(token, house), 0n);
    did('deposit', { total: balance.total });

    const claims = buyer.claims({ recipient: seller.address, asset: token, amount: dollars(0.25), reqId: randomId() });
    const payload = await buyer.sign(claims);
    const certificate = await seller.issue(payload);
    assert.match(certificate.claims, /^[0-9a-f]+$/);
    assert.match(certificate.signature, /^[0-9a-f]{192}$/);
    assert.equal(certificate.claims.length, 768);
    const c = buyer.verify(certificate, claims);
    const again = await seller.issue(payload);
    assert.equal(again.claims, certificate.claims);
    assert.equal(again.signature, certificate.signature);
    did('guarantee v1', { cycle: cycleId(c.cycleId) });

    // The forms in which the same request may stand count as the same.
    const forms = { ...claims, version: 1, amount: Number(dollars(0.25)), req_id: BigInt(claims.req_id).toString(), asset_address: getAddress(claims.asset_address) };
    assert.equal((await seller.issue({ ...payload, claims: forms })).claims, certificate.claims);
    await refused(400, () => seller.issue({ ...payload, signature: payload.signature.slice(0, -4) + '001b' }));
    await refused(400, () => seller.issue({ ...payload, claims: { ...claims, amount: '0x1' } }));
    const tooMuch = buyer.claims({ recipient: seller.address, asset: token, amount: dollars(1e6), reqId: randomId() });
    const why = await refused(400, async () => seller.issue(await buyer.sign(tooMuch)));
    const ahead = buyer.claims({ recipient: seller.address, asset: token, amount: 1n, reqId: randomId(), timestamp: Math.floor(Date.now() / 1000) + 3600 });
    await refused(400, async () => seller.issue(await buyer.sign(ahead)));
    const conflict = { ...claims, amount: toHex(dollars(0.26)) };
    assert([400, 409].includes(await seller.issue(await buyer.sign(conflict)).then(() => 200, (e) => e.status)));
    did('refusals', { why });

    for (const form of ['eip191', 'eip191-text']) {
      const one = buyer.claims({ recipient: seller.address, asset: token, amount: 7n, reqId: randomId() });
      const signed = await buyer.sign(one, form);
      if (options.eip191) buyer.verify(await seller.issue(signed), one);
      else await refused(400, () => seller.issue(signed));
    }
    did('eip191', { admitted: !!options.eip191 });

    const list = await seller.payments();
    const mine = list.filter((x) => x.user_address.toLowerCase() === buyer.address.toLowerCase());
    assert(mine.some((x) => BigInt(x.amount) === dollars(0.25)), JSON.stringify(list));
    for (const member of ['user_address', 'recipient_address', 'tx_hash', 'amount', 'verified', 'finalized', 'failed', 'created_at']) assert(member in mine[0], member);
    assert(BigInt((await buyer.assetBalance(token)).locked) >= dollars(0.25));
    did('reads', { payments: list.length });

    assert.deepEqual(await buyer.logout(), { revoked: true });
    did('logout');
  },

  // guarantee2: a guarantee that depends on a validator.
  async guarantee2() {
    const [buyer, seller, validator] = await Promise.all(options.keys.map(open));
    assert(buyer.second.enabled && buyer.versions.includes(2));
    const [registry] = buyer.params.trusted_validation_registries;
    const token = await asset(buyer);
    await funded(buyer, token, dollars(2));
    const policy = {
      validationRegistryAddress: registry, validationChainId: buyer.params.chain_id, validatorAddress: validator.address, validatorAgentId: '42',
      minValidationScore: 80, jobHash: keccak256('0x01'), requiredValidationTag: 'hard-finality',
    };
    const claims = buyer.claims({ recipient: seller.address, asset: token, amount: dollars(0.5), reqId: randomId(), policy });
    const certificate = await seller.issue(await buyer.sign(claims));
    const c = buyer.verify(certificate, claims);
    assert.equal(c.domain, buyer.second.domain);
    assert.equal(certificate.claims.length / 2, 768);
    did('guarantee v2', { cycle: cycleId(c.cycleId), request: claims.validation_request_hash });
    const foreign = buyer.claims({ recipient: seller.address, asset: token, amount: 1n, reqId: randomId(), policy: { ...policy, validationRegistryAddress: seller.address } });
    await refused(400, async () => seller.issue(await buyer.sign(foreign)));
    const unbound = buyer.claims({ recipient: seller.address, asset: token, amount: 1n, reqId: randomId(), policy });
    await refused(400, async () => seller.issue(await buyer.sign({ ...unbound, validation_subject_hash: keccak256('0x02') })));
    did('refusals v2');

    // It waits for its validator, and is netted in the first cycle whose cutoff comes after the answer.
    const mine = async () => (await seller.payments()).find((x) => BigInt(x.amount) === dollars(0.5));
    assert.equal((await mine()).verified, false);
    assert.equal(BigInt((await buyer.assetBalance(token)).locked), dollars(0.5));
    did('waits');
    const answer = (functionName, args, by) => by.send({ address: registry, abi: validationRegistry, functionName, args });
    await answer('validationRequest', [validator.address, 42n, '', claims.validation_request_hash], seller);
    await answer('validationResponse', [claims.validation_request_hash, 80, '', keccak256('0x03'), 'hard-finality'], validator);
    await until('validated', async () => (await mine()).verified);
    did('validated');
    const { length_seconds: length } = buyer.params.schedules.find((s) => getAddress(s.asset_address) === token);
    const start = claims.timestamp - (claims.timestamp % length);
    const proof = await until('netted', async () => {
      for (let n = 0; n < 5; n++) {
        const found = await soon(() => seller.proof(`${token.toLowerCase()}:${start + n * length}`))();
        if (found) return found;
      }
      return undefined;
    });
    assert.equal(BigInt(proof.net_credit), dollars(0.5));
    assert.equal(fold(proof.leaf, proof.proof), proof.merkle_root);
    did('netted', { cycle: proof.cycle_id });
  },

  // cycle: three parties to the end of a cycle, every action on the chain; and a withdrawal.
  async cycle() {
    const [payer, defaulter, seller] = await Promise.all(options.keys.map(open));
    const { clearing_house_address: house, chain_id: chainId } = payer.params;
    const token = options.coin ? zeroAddress : await asset(payer);
    await Promise.all([payer, defaulter, seller].map((c) => funded(c, token, dollars(3))));
    await seller.withdraw('request', token, dollars(1));
    let own = (await seller.view('getUserAllAssets', seller.address)).find((a) => a.asset === token);
    assert.equal(own.withdrawalRequestAmount, dollars(1));
    assert(own.withdrawalRequestTimestamp > 0n);
    await seller.withdraw('cancel', token);
    await seller.withdraw('request', token, dollars(0.5));
    assert.equal((await seller.view('withdrawalRequests', seller.address, token))[1], dollars(0.5));
    assert.deepEqual(await seller.view('getUser', seller.address, ...(options.coin ? [] : [token])), [dollars(3), ...(await seller.view('withdrawalRequests', seller.address, token))]);
    assert.equal(await seller.view('collateral', seller.address, ...(options.coin ? [] : [token])), dollars(3));
    assert.deepEqual(await seller.view('GUARANTEE_VERIFICATION_KEY'), Object.values(seller.second.key));
    did('withdrawal requested');

    // A cycle may end between two guarantees; then they are made again.
    const edges = [[payer, seller, 0.1], [defaulter, seller, 0.2], [seller, payer, 0.03]];
    let cycle;
    for (let n = 0; !cycle; n++) {
      const cycles = await Promise.all(edges.map(async ([from, to, amount]) => {
        const claims = from.claims({ recipient: to.address, asset: token, amount: dollars(amount), reqId: randomId() });
        return cycleId(from.verify(await to.issue(await from.sign(claims)), claims).cycleId);
      }));
      if (new Set(cycles).size === 1) [cycle] = cycles;
      assert(n < 5, 'no cycle took all guarantees');
    }
    did('guarantees', { cycle });

    // gained is by how much a transaction changed what its sender holds, gas apart.
    const gained = async (who, sent) => {
      const held = await who.balanceOf(token);
      const { gasUsed, effectiveGasPrice } = await sent();
      return (await who.balanceOf(token)) - held + (options.coin ? gasUsed * effectiveGasPrice : 0n);
    };
    const owed = new Map([[payer, dollars(0.07)], [defaulter, dollars(0.2)], [seller, dollars(0.27)]]);
    const roles = new Map([[payer, ['NET_DEBTOR', 0]], [defaulter, ['NET_DEBTOR', 0]], [seller, ['NET_CREDITOR', 1]]]);
    for (const [who, amount] of owed) {
      const proof = await until('proof', soon(() => who.proof(cycle)));
      const [name, role] = roles.get(who);
      assert.equal(proof.role, name);
      assert.equal(BigInt(proof.amount), amount);
      assert.match(proof.amount, /^\d+$/);
      assert.equal(proof.cycle_id, cycle);
      assert.equal(proof.leaf, leafOf(chainId, house, cycle, token, who.address, amount, role));
      assert.equal(fold(proof.leaf, proof.proof), proof.merkle_root);
      assert.deepEqual(await who.proof(encodeURIComponent(proof.cycle_id_text)), proof);
      assert.deepEqual(await who.proof(proof.cycle_id_text), proof);
    }
    did('proofs');

    const pay = await until('pay_net_debit', soon(() => payer.action(cycle, 'pay_net_debit')));
    const root = (await payer.proof(cycle)).merkle_root;
    const [onAsset, onRoot, debit, credit, , , , , submission, finality, status, exists] = await payer.clearing('getCycle', [cycle], house);
    assert.deepEqual([onAsset, onRoot, status, exists], [token, root, 1, true]);
    assert(debit === credit && debit >= dollars(0.27), `${debit} and ${credit}: others may share the cycle`);
    assert(submission <= finality && submission > 0n);
    assert.equal(await payer.clearing('participantLeaf', [cycle, token, payer.address, dollars(0.07), 0], house), (await payer.proof(cycle)).leaf);
    assert.equal(pay.contract_address.toLowerCase(), house.toLowerCase());
    assert.equal(pay.function_name, 'payNetDebit');
    assert.equal(pay.debtor, null);
    assert.equal(pay.payable_value, options.coin ? pay.amount : '0');
    await refused(400, () => payer.action(cycle, 'claim_net_credit'));
    if (!options.coin) await payer.approve(token, BigInt(pay.amount));
    const collateral = () => payer.view('guaranteeCapacity', payer.address, token);
    const taken = await collateral();
    assert.equal(await gained(payer, () => payer.execute(pay)), -dollars(0.07));
    assert.equal(await collateral(), taken + dollars(0.07));
    assert.equal((await payer.clearing('getParticipantState', [cycle, payer.address], house))[2], true);
    did('payNetDebit');

    // Everybody may mark who did not pay, and finalize; the core does so too, and somebody is first.
    const state = () => payer.clearing('getParticipantState', [cycle, defaulter.address], house);
    const mark = await until('mark_defaulted', async () => {
      const found = await soon(() => payer.action(cycle, 'mark_defaulted', defaulter.address))();
      return found ?? ((await state())[4] || undefined);
    });
    let marked = 'by the core';
    if (mark !== true) {
      assert.equal(mark.debtor.toLowerCase(), defaulter.address.toLowerCase());
      marked = await payer.execute(mark).then(() => 'by the client', async (e) => { if (!(await state())[4]) throw e; return 'by the core'; });
    }
    assert.equal((await state())[4], true);
    did('markDefaulted', { marked });
    const finalized = async () => (await payer.clearing('getCycle', [cycle], house))[10] === 2;
    let ended = 'by the core';
    if (!(await finalized())) {
      ended = await payer.send({ address: house, abi: clearingHouse, functionName: 'finalizeCycle', args: [cycle], gas: 1_000_000n })
        .then(() => 'by the client', async (e) => { if (!(await finalized())) throw e; return 'by the core'; });
    }
    assert(await finalized());
    did('finalizeCycle', { ended });

    const claim = await until('claim_net_credit', soon(() => seller.action(cycle, 'claim_net_credit')));
    assert.equal(await gained(seller, () => seller.execute(claim)), dollars(0.27));
    assert.equal((await seller.clearing('getParticipantState', [cycle, seller.address], house))[3], true);
    did('claimNetCredit');
    await refused(400, () => seller.action(cycle, 'claim_net_credit').then((a) => { if (a) throw new CoreError(400, 'again'); }));
    await until('locks released', async () => {
      const balances = await Promise.all([payer, defaulter, seller].map((c) => c.assetBalance(token)));
      return balances.every((b) => BigInt(b.locked) === 0n);
    });
    did('locks released');
    for (const c of options.coin ? [] : [payer, defaulter, seller]) assert.equal(await c.allowance(token, house), 0n);

    own = (await seller.view('getUserAllAssets', seller.address)).find((a) => a.asset === token);
    const ends = Number(own.withdrawalRequestTimestamp) * 1000 + 60_000; // --dev's delay
    await sleep(Math.max(0, ends - Date.now()));
    const back = await gained(seller, () => until('withdrawal', async () => {
      try {
        return await seller.withdraw('finalize', token);
      } catch {
        return undefined; // the delay is not over
      }
    }, 150));
    assert.equal(back, own.withdrawalRequestAmount);
    did('withdrawn', { amount: own.withdrawalRequestAmount });
  },

  // gate: what the client buys at a paywall, and what it must not get there.
  async gate() {
    const [buyer, other] = await Promise.all(options.keys.map(open));
    const token = await asset(buyer);
    await funded(buyer, token, dollars(2));
    for (const version of [1, 2]) {
      const bought = await buyer.pay(`${options.gate}/quote/ACME`, version);
      assert.equal(bought.response.status, 200, await bought.response.clone().text());
      assert.equal(bought.receipt.success, true);
      buyer.verify(bought.receipt.guarantee, bought.claims);
      const standard = unwrap(bought.response.headers.get('PAYMENT-RESPONSE'));
      assert.equal(standard.success, true);
      assert.equal(standard.payer.toLowerCase(), buyer.address.toLowerCase());
      buyer.verify(standard.certificate, bought.claims);
      did('bought', { version, body: await bought.response.text() });

      // The same payment again gets the same answer; for another route, a dear one, nothing.
      const name = version === 2 ? 'PAYMENT-SIGNATURE' : 'X-PAYMENT';
      const show = (path, header) => fetch(options.gate + path, { headers: { [name]: header } });
      assert.equal((await show('/quote/ACME', bought.header)).status, 200);
      for (const path of ['/quote/OTHER', '/dear']) {
        const answer = await show(path, bought.header);
        assert([402, 409].includes(answer.status), `${path}: ${answer.status}`);
      }
      const terms = async (path) => {
        const r = await fetch(options.gate + path);
        return version === 2 ? unwrap(r.headers.get('PAYMENT-REQUIRED')) : r.json();
      };
      const dear = await terms('/dear');
      const guarantee = dear.accepts.find((a) => a.scheme === '4mica-credit');
      const forged = async (change, signer = buyer, edit = (e) => e) => {
        const a = { ...guarantee };
        const claims = signer.claims({
          recipient: a.payTo, asset: a.asset, amount: a.amount, reqId: randomId(), ...change,
        });
        return show('/dear', wrap(edit(envelope(dear, a, await signer.sign(claims), version))));
      };
      const attacks = {
        'a new header at the cheap price': () => forged({ amount: (BigInt(guarantee.amount) / 20n) }),
        'one unit less': () => forged({ amount: BigInt(guarantee.amount) - 1n }),
        'one unit more': () => forged({ amount: BigInt(guarantee.amount) + 1n }),
        'another recipient': () => forged({ recipient: other.address }),
        'another asset': () => forged({ asset: other.address }),
        'another network': () => forged({}, buyer, (e) => (version === 2 ? { ...e, accepted: { ...e.accepted, network: 'eip155:1' } } : { ...e, network: 'eip155:1' })),
        'the whole offer made cheaper': async () => {
          const a = { ...guarantee, amount: '1', maxAmountRequired: undefined };
          const claims = buyer.claims({ recipient: a.payTo, asset: a.asset, amount: 1n, reqId: randomId() });
          return show('/dear', wrap(envelope(dear, a, await buyer.sign(claims), version)));
        },
        'a signature of somebody else': () => forged({}, buyer, (e) => ({ ...e, payload: { ...e.payload, claims: { ...e.payload.claims, user_address: other.address.toLowerCase() } } })),
        'without collateral': () => forged({}, other),
        'no payload': () => show('/dear', wrap({ x402Version: version })),
      };
      for (const [what, attack] of Object.entries(attacks)) {
        const answer = await attack();
        assert.equal(answer.status, 402, `${what}: ${answer.status} ${await answer.text()}`);
        assert.equal(answer.headers.get('PAYMENT-RESPONSE'), null, what);
      }
      assert.equal((await show('/dear', 'A'.repeat(9000))).status, 400);
      const both = await fetch(`${options.gate}/dear`, { headers: { 'X-PAYMENT': bought.header, 'PAYMENT-SIGNATURE': bought.header } });
      assert.equal(both.status, 400);
      did('attacks', { version });
    }
    for (const version of [1, 2]) {
      const bought = await buyer.pay(`${options.gate}/judged`, version);
      assert.equal(bought.response.status, 200, await bought.response.clone().text());
      assert.equal(bought.claims.version, 'v2');
      buyer.verify(bought.receipt.guarantee, bought.claims);
      const { accepted } = bought;
      const show = (payload) => fetch(`${options.gate}/judged`, {
        headers: { [version === 2 ? 'PAYMENT-SIGNATURE' : 'X-PAYMENT']: wrap(envelope({}, accepted, payload, version)) },
      });
      const terms = { recipient: accepted.payTo, asset: accepted.asset, amount: accepted.amount, reqId: randomId() };
      const weaker = [buyer.claims(terms), buyer.claims({ ...terms, policy: { ...accepted.extra, minValidationScore: 1 } }), buyer.claims({ ...terms, policy: { ...accepted.extra, validatorAddress: buyer.address } })];
      for (const claims of weaker) assert.equal((await show(await buyer.sign(claims))).status, 402);
    }
    did('bought on condition');
    const first = await fetch(`${options.gate}/quote/ACME`);
    const { extra } = (await first.json()).accepts.find((a) => a.scheme === '4mica-credit');
    const ids = new Set();
    await Promise.all(Array.from({ length: 200 }, async () => {
      const tab = await (await fetch(extra.tabEndpoint, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ guaranteeVersion: 1, userAddress: buyer.address }) })).json();
      ids.add(tab.nextReqId);
    }));
    assert.equal(ids.size, 200);
    did('ids', { count: ids.size });
  },

  // facilitator: a seller that has its payments verified and settled.
  async facilitator() {
    const [buyer, seller] = await Promise.all(options.keys.map(open));
    const token = await asset(buyer);
    await funded(buyer, token, dollars(2));
    const post = async (path, body) => {
      const response = await fetch(options.facilitator + path, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });
      return { status: response.status, ...(await response.json()) };
    };
    const { kinds } = await (await fetch(`${options.facilitator}/supported`)).json();
    const network = `eip155:${buyer.params.chain_id}`;
    for (const version of [1, 2]) assert(kinds.some((k) => k.scheme === '4mica-credit' && k.network === network && k.x402Version === version));
    assert.equal((await (await fetch(`${options.facilitator}/health`)).json()).status, 'ok');
    did('supported', { kinds: kinds.length });
    const policy = {
      validationRegistryAddress: buyer.params.trusted_validation_registries[0], validationChainId: buyer.params.chain_id, validatorAddress: seller.address,
      validatorAgentId: '7', minValidationScore: 50, jobHash: keccak256('0x04'),
    };
    for (const [version, condition] of [[1], [2], [1, policy], [2, policy]]) {
      const guaranteeVersion = condition ? 2 : 1;
      const tab = await post('/tabs', { userAddress: buyer.address, recipientAddress: seller.address, network, erc20Token: token, ttlSeconds: 300, guaranteeVersion });
      assert.equal(tab.recipientAddress.toLowerCase(), seller.address.toLowerCase());
      const paymentRequirements = {
        scheme: '4mica-credit', network, payTo: seller.address, asset: token, maxTimeoutSeconds: 300, extra: { tabEndpoint: 'https://api.example.com/tab', ...condition },
        ...(version === 1 ? { maxAmountRequired: '2500', resource: 'https://api.example.com/x', description: '', mimeType: '' } : { amount: '2500' }),
      };
      const claims = buyer.claims({ recipient: seller.address, asset: token, amount: 2500n, reqId: BigInt(tab.nextReqId), policy: condition });
      const payload = await buyer.sign(claims);
      const paymentPayload = envelope({ resource: { url: 'https://api.example.com/x' } }, paymentRequirements, payload, version);
      const body = { x402Version: version, paymentHeader: wrap(paymentPayload), paymentPayload, paymentRequirements };
      const locked = async () => BigInt((await buyer.assetBalance(token)).locked);
      const verified = await post('/verify', body);
      assert.equal(verified.status, 200);
      assert.equal(verified.isValid, true, JSON.stringify(verified));
      const settled = await post('/settle', body);
      assert.equal(settled.success, true, JSON.stringify(settled));
      assert.equal(settled.networkId, network);
      assert.match(settled.certificate.claims, /^0x/);
      assert.match(settled.certificate.signature, /^0x/);
      buyer.verify(settled.certificate, claims);
      const now = await locked();
      const again = await post('/settle', body);
      assert.deepEqual(again.certificate, settled.certificate);
      assert((await locked()) <= now);
      const bad = await post('/settle', { ...body, paymentRequirements: { ...paymentRequirements, ...(version === 1 ? { maxAmountRequired: '2501' } : { amount: '2501' }) } });
      assert.deepEqual([bad.status, bad.success, bad.certificate], [200, false, undefined]);
      assert.notEqual(bad.error ?? '', '');
      const beyond = { ...paymentRequirements, ...(version === 1 ? { maxAmountRequired: '1000000000' } : { amount: '1000000000' }) };
      const much = await buyer.sign(buyer.claims({ recipient: seller.address, asset: token, amount: 1000000000n, reqId: randomId(), policy: condition }));
      const over = { ...body, paymentRequirements: beyond, paymentPayload: envelope({ resource: { url: 'https://api.example.com/x' } }, beyond, much, version) };
      assert.equal((await post('/verify', over)).isValid, !options.sees);
      assert.equal((await post('/settle', over)).success, false);
      did('settled', { version, guarantee: guaranteeVersion });
    }
  },

  // shop: a seller with the client's own paywall. It ends with standard input.
  async shop() {
    const seller = await open(options.keys[0]);
    const token = await asset(seller);
    let ids = 0n;
    const server = createServer(async (request, response) => {
      const answer = (status, body, headers = {}) => {
        response.writeHead(status, { 'content-type': 'application/json', ...headers });
        response.end(JSON.stringify(body));
      };
      const here = `http://${request.headers.host}`;
      const accepted = {
        scheme: options.scheme ?? '4mica-credit', network: `eip155:${seller.params.chain_id}`, asset: token, amount: '2500', payTo: seller.address,
        maxTimeoutSeconds: 300, extra: { tabEndpoint: `${here}/tab` },
      };
      const demand = (error) => answer(402, { x402Version: 1, error, resource: { url: here + request.url, description: '', mimeType: '' }, accepts: [accepted] });
      try {
        if (request.url === '/tab') {
          let text = '';
          for await (const part of request) text += part;
          const { userAddress } = JSON.parse(text);
          return answer(200, { tabId: '0x1', userAddress, recipientAddress: seller.address, assetAddress: token, startTimestamp: 1, ttlSeconds: 60, nextReqId: toHex(BigInt(randomId()) + ids++) });
        }
        const header = request.headers['x-payment'];
        if (!header) return demand('payment required');
        const guarantee = await seller.issue(unwrap(header).payload);
        did('sold', { path: request.url });
        return answer(200, { symbol: 'ACME' }, { 'X-PAYMENT-RESPONSE': wrap({ success: true, guarantee: { claims: guarantee.claims, signature: guarantee.signature } }) });
      } catch (e) {
        return demand(e.message);
      }
    });
    await new Promise((ready) => server.listen(0, '127.0.0.1', ready));
    say({ url: `http://127.0.0.1:${server.address().port}` });
    await new Promise((end) => process.stdin.on('end', end).resume());
    process.exit(0);
  },

  // buyer buys at a shop.
  async buyer() {
    const buyer = await open(options.keys[0]);
    const token = await asset(buyer);
    await funded(buyer, token, dollars(1));
    const bought = await buyer.pay(options.shop, 1);
    assert.equal(bought.response.status, 200, await bought.response.clone().text());
    buyer.verify(bought.receipt.guarantee, bought.claims);
    did('bought', { body: await bought.response.text(), agent });
  },
};

await scenarios[options.scenario]();

// A client of 4Mica's protocol in its cycle generation, which is what scheme 4mica-credit is. It is written from the
// published protocol, since 4Mica's own TypeScript client of that generation is not published, and does what that client is
// known to do: it reads the chain's URL, signing domain and contracts from the core, asks a seller's tab endpoint for a
// request id, compares a certificate's domain with the chain, folds leaf and sorted pairs itself, fixes its fees at 0.1 gwei,
// and never lets the ClearingHouse move tokens.
import { bls12_381 } from '@noble/curves/bls12-381';
import {
  concat, createPublicClient, createWalletClient, decodeAbiParameters, encodeAbiParameters, getAddress, hexToBytes, http, keccak256,
  parseAbi, parseGwei, toHex, zeroAddress,
} from 'viem';
import { privateKeyToAccount } from 'viem/accounts';
import { chainOf } from './common.mjs';

export const agent = 'ts-sdk-4mica/1.3.1';

const fees = { maxFeePerGas: parseGwei('0.1'), maxPriorityFeePerGas: parseGwei('0.1') };

export const core4mica = parseAbi([
  'function deposit() payable',
  'function depositStablecoin(address asset, uint256 amount)',
  'function requestWithdrawal(uint256 amount)',
  'function requestWithdrawal(address asset, uint256 amount)',
  'function cancelWithdrawal()',
  'function cancelWithdrawal(address asset)',
  'function finalizeWithdrawal()',
  'function finalizeWithdrawal(address asset)',
  'function collateral(address user) view returns (uint256)',
  'function collateral(address user, address asset) view returns (uint256)',
  'function getUser(address user) view returns (uint256 assetCollateral, uint256 withdrawalRequestTimestamp, uint256 withdrawalRequestAmount)',
  'function getUser(address user, address asset) view returns (uint256 assetCollateral, uint256 withdrawalRequestTimestamp, uint256 withdrawalRequestAmount)',
  'function withdrawalRequests(address user, address asset) view returns (uint256 timestamp, uint256 amount)',
  'function GUARANTEE_VERIFICATION_KEY() view returns (bytes32 x_a, bytes32 x_b, bytes32 y_a, bytes32 y_b)',
  'function getUserAllAssets(address user) view returns ((address asset, uint256 collateral, uint256 withdrawalRequestTimestamp, uint256 withdrawalRequestAmount)[])',
  'function getERC20Tokens() view returns (address[])',
  'function guaranteeCapacity(address user, address asset) view returns (uint256)',
  'function principalBalance(address user, address asset) view returns (uint256)',
  'function withdrawableBalance(address user, address asset) view returns (uint256)',
  'function guaranteeDomainSeparator() view returns (bytes32)',
  'function getGuaranteeVersionConfig(uint64 version) view returns ((bytes32 x_a, bytes32 x_b, bytes32 y_a, bytes32 y_b) key, bytes32 domainSeparator, address decoder, bool enabled)',
]);

export const clearingHouse = parseAbi([
  'function payNetDebit(bytes32 cycleId, uint256 amount, bytes32[] proof) payable',
  'function claimNetCredit(bytes32 cycleId, uint256 amount, bytes32[] proof)',
  'function markDefaulted(bytes32 cycleId, address debtor, uint256 amount, bytes32[] proof)',
  'function finalizeCycle(bytes32 cycleId)',
  'function getCycle(bytes32 cycleId) view returns (address asset, bytes32 merkleRoot, uint256 totalNetDebit, uint256 totalNetCredit, uint256 totalPaidIn, uint256 totalClaimedOut, uint256 totalDefaultCovered, uint256 totalResolvedDebit, uint64 submissionDeadline, uint64 finalityDeadline, uint8 status, bool exists)',
  'function getParticipantState(bytes32 cycleId, address participant) view returns (uint256 netDebit, uint256 netCredit, bool paid, bool claimed, bool defaulted)',
  'function participantLeaf(bytes32 cycleId, address asset, address participant, uint256 amount, uint8 role) view returns (bytes32)',
]);

export const validationRegistry = parseAbi([
  'function validationRequest(address validator, uint256 agentId, string uri, bytes32 requestHash)',
  'function validationResponse(bytes32 requestHash, uint8 response, string uri, bytes32 responseHash, string tag)',
]);

const erc20 = parseAbi([
  'function approve(address spender, uint256 amount) returns (bool)',
  'function allowance(address owner, address spender) view returns (uint256)',
  'function balanceOf(address owner) view returns (uint256)',
]);

const v1Fields = [
  ['user', 'address'], ['recipient', 'address'], ['reqId', 'uint256'], ['amount', 'uint256'], ['asset', 'address'], ['timestamp', 'uint64'],
].map(([name, type]) => ({ name, type }));

const v2Fields = [...v1Fields, ...[
  ['validationRegistryAddress', 'address'], ['validationRequestHash', 'bytes32'], ['validationChainId', 'uint256'], ['validatorAddress', 'address'],
  ['validatorAgentId', 'uint256'], ['minValidationScore', 'uint8'], ['validationSubjectHash', 'bytes32'], ['jobHash', 'bytes32'], ['requiredValidationTag', 'string'],
].map(([name, type]) => ({ name, type }))];

const certificateV1 = [
  ['domain', 'bytes32'], ['cycleId', 'uint256'], ['reqId', 'uint256'], ['client', 'address'], ['recipient', 'address'], ['amount', 'uint256'],
  ['asset', 'address'], ['timestamp', 'uint64'], ['version', 'uint64'],
].map(([name, type]) => ({ name, type }));

const certificateV2 = [...certificateV1, ...[
  ['validationRegistryAddress', 'address'], ['validationRequestHash', 'bytes32'], ['validationChainId', 'uint64'], ['validatorAddress', 'address'],
  ['validatorAgentId', 'uint256'], ['minValidationScore', 'uint8'], ['validationSubjectHash', 'bytes32'], ['jobHash', 'bytes32'], ['requiredValidationTag', 'string'],
].map(([name, type]) => ({ name, type }))];

const withPrefix = (hex) => (hex.startsWith('0x') ? hex : `0x${hex}`);

// CoreError is an answer of the core that is no success.
export class CoreError extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

// Client speaks to one core as one wallet.
export class Client {
  constructor({ url, key, rpc }) {
    this.url = url.replace(/\/$/, '');
    this.account = privateKeyToAccount(key);
    this.rpc = rpc;
    this.requests = 0;
  }

  get address() {
    return this.account.address;
  }

  async request(method, path, body, headers = {}) {
    this.requests++;
    const response = await fetch(this.url + path, {
      method,
      headers: { 'x-4mica-sdk': agent, ...(body === undefined ? {} : { 'content-type': 'application/json' }), ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    const text = await response.text();
    let parsed;
    try {
      parsed = text === '' ? undefined : JSON.parse(text);
    } catch {
      parsed = undefined;
    }
    if (!response.ok) throw new CoreError(response.status, parsed?.error ?? text);
    return parsed;
  }

  // authorized makes a request with an access token: a new one a minute before the old one ends, by a new login if the
  // refresh token is good no longer.
  async authorized(method, path, body) {
    if (!this.tokens || Date.now() >= this.tokens.ends - 60_000) await this.renew();
    return this.request(method, path, body, { authorization: `Bearer ${this.tokens.access}` });
  }

  async renew() {
    if (this.tokens) {
      try {
        return this.keep(await this.request('POST', '/auth/refresh', { refresh_token: this.tokens.refresh }));
      } catch (e) {
        if (e.status !== 401) throw e;
      }
    }
    return this.login();
  }

  keep(answer) {
    const { access_token: access, refresh_token: refresh, expires_in: seconds } = answer;
    if (!access || !refresh || !(seconds > 0)) throw new Error(`no tokens in ${JSON.stringify(answer)}`);
    this.tokens = { access, refresh, ends: Date.now() + seconds * 1000 };
    return this.tokens;
  }

  // signIn returns the message of a login and its signature.
  async signIn() {
    return this.signMessage(await this.request('POST', '/auth/nonce', { address: this.address }));
  }

  async signMessage({ nonce, siwe }) {
    const chainId = siwe.chainId ?? siwe.chain_id;
    const issuedAt = siwe.issuedAt ?? siwe.issued_at;
    const message = [
      `${siwe.domain} wants you to sign in with your Ethereum account:`, this.address, '', siwe.statement, '', `URI: ${siwe.uri}`, 'Version: 1',
      `Chain ID: ${chainId}`, `Nonce: ${nonce}`, `Issued At: ${issuedAt}`, `Expiration Time: ${siwe.expiration}`,
    ].join('\n');
    return { address: this.address, message, signature: await this.account.signMessage({ message }) };
  }

  async login() {
    return this.keep(await this.request('POST', '/auth/verify', await this.signIn()));
  }

  async logout() {
    const answer = await this.request('POST', '/auth/logout', { refresh_token: this.tokens.refresh });
    this.tokens = undefined;
    return answer ?? { revoked: true };
  }

  // connect reads the core's parameters and compares them with the chain that they name.
  async connect() {
    const p = await this.request('GET', '/core/public-params');
    this.params = p;
    this.key = Array.isArray(p.public_key) ? Uint8Array.from(p.public_key) : hexToBytes(withPrefix(p.public_key));
    if (this.key.length !== 48) throw new Error(`a key of ${this.key.length} bytes`);
    const rpc = this.rpc ?? p.ethereum_http_rpc_url ?? '';
    if (rpc === '') throw new Error('the core names no chain');
    const chain = chainOf(p.chain_id, rpc);
    this.chain = createPublicClient({ chain, transport: http(rpc), pollingInterval: 200 });
    this.wallet = createWalletClient({ account: this.account, chain, transport: http(rpc) });
    const id = await this.chain.getChainId();
    if (id !== p.chain_id) throw new Error(`the chain's id is ${id}, the core says ${p.chain_id}`);
    this.domains = { 1: await this.view('guaranteeDomainSeparator') };
    const [key, domain, , enabled] = await this.view('getGuaranteeVersionConfig', 2n);
    this.second = { key, domain, enabled };
    if (enabled) this.domains[2] = domain;
    const accepted = p.accepted_guarantee_versions?.length ? p.accepted_guarantee_versions : Array.from({ length: p.max_accepted_guarantee_version }, (_, i) => i + 1);
    this.versions = accepted;
    if (this.domains[p.max_accepted_guarantee_version] !== p.active_guarantee_domain_separator) {
      throw new Error(`domain of version ${p.max_accepted_guarantee_version}: the chain has ${this.domains[p.max_accepted_guarantee_version]}, the core says ${p.active_guarantee_domain_separator}`);
    }
    return p;
  }

  view(functionName, ...args) {
    return this.chain.readContract({ address: this.params.contract_address, abi: core4mica, functionName, args });
  }

  // send makes a transaction and waits a minute for it at most.
  async send(request) {
    const hash = await this.wallet.writeContract({ ...fees, ...request });
    const receipt = await this.chain.waitForTransactionReceipt({ hash, timeout: 60_000 });
    if (receipt.status !== 'success') throw new Error(`transaction ${hash} failed`);
    return receipt;
  }

  vault(functionName, args, value) {
    return this.send({ address: this.params.contract_address, abi: core4mica, functionName, args, value });
  }

  // approve lets the vault move tokens, which is the only contract that it ever does this for.
  approve(asset, amount) {
    return this.send({ address: asset, abi: erc20, functionName: 'approve', args: [this.params.contract_address, amount] });
  }

  // deposit puts a token, or with the zero address the chain's coin, into the vault.
  async deposit(asset, amount) {
    if (asset === zeroAddress) return this.vault('deposit', [], amount);
    await this.approve(asset, amount);
    return this.vault('depositStablecoin', [asset, amount]);
  }

  // withdraw makes one of the three calls of a withdrawal, which name no asset for the chain's coin.
  withdraw(step, asset, ...amount) {
    return this.vault(`${step}Withdrawal`, asset === zeroAddress ? amount : [asset, ...amount]);
  }

  balanceOf(asset, owner = this.address) {
    if (asset === zeroAddress) return this.chain.getBalance({ address: owner });
    return this.chain.readContract({ address: asset, abi: erc20, functionName: 'balanceOf', args: [owner] });
  }

  allowance(asset, spender) {
    return this.chain.readContract({ address: asset, abi: erc20, functionName: 'allowance', args: [this.address, spender] });
  }

  tokens_() {
    return this.request('GET', '/core/tokens');
  }

  assetBalance(asset, user = this.address) {
    return this.authorized('GET', `/core/users/${user}/assets/${asset}`);
  }

  payments(recipient = this.address) {
    return this.authorized('GET', `/core/recipients/${recipient}/payments`);
  }

  // claims makes the claims of a guarantee. With a policy they are of version 2.
  claims({ recipient, asset, amount, reqId, timestamp = Math.floor(Date.now() / 1000), policy }) {
    const claims = {
      version: policy ? 'v2' : 'v1', user_address: this.address.toLowerCase(), recipient_address: recipient.toLowerCase(), req_id: toHex(BigInt(reqId)),
      amount: toHex(BigInt(amount)), asset_address: asset.toLowerCase(), timestamp,
    };
    if (!policy) return claims;
    const text = (s) => keccak256(new TextEncoder().encode(s));
    const subject = keccak256(encodeAbiParameters(
      [{ type: 'bytes32' }, { type: 'uint256' }, { type: 'address' }, { type: 'address' }, { type: 'uint256' }, { type: 'address' }, { type: 'uint64' }],
      [text('4MICA_VALIDATION_SUBJECT_V1'), BigInt(reqId), this.address, getAddress(recipient), BigInt(amount), getAddress(asset), BigInt(timestamp)],
    ));
    const tag = policy.requiredValidationTag ?? '';
    const request = keccak256(encodeAbiParameters(
      [{ type: 'bytes32' }, { type: 'uint256' }, { type: 'address' }, { type: 'address' }, { type: 'uint256' }, { type: 'bytes32' }, { type: 'uint8' }, { type: 'bytes32' }, { type: 'bytes32' }],
      [text('4MICA_VALIDATION_REQUEST_V2'), BigInt(policy.validationChainId), getAddress(policy.validationRegistryAddress), getAddress(policy.validatorAddress),
        BigInt(policy.validatorAgentId), subject, Number(policy.minValidationScore), text(tag), policy.jobHash],
    ));
    return {
      ...claims, validation_registry_address: policy.validationRegistryAddress.toLowerCase(), validation_request_hash: request,
      validation_chain_id: Number(policy.validationChainId), validator_address: policy.validatorAddress.toLowerCase(),
      validator_agent_id: toHex(BigInt(policy.validatorAgentId)), min_validation_score: Number(policy.minValidationScore),
      validation_subject_hash: subject, job_hash: policy.jobHash, required_validation_tag: tag,
    };
  }

  // sign signs claims: as typed data, or as a personal message of their bytes (eip191) or of the text of these (eip191-text),
  // which is what the original signs.
  async sign(claims, form = 'eip712') {
    const message = values(claims);
    const fields = claims.version === 'v2' ? v2Fields : v1Fields;
    if (form === 'eip712') {
      const primaryType = claims.version === 'v2' ? 'SolGuaranteeRequestClaimsV2' : 'SolGuaranteeRequestClaimsV1';
      const domain = { name: this.params.eip712_name, version: this.params.eip712_version, chainId: this.params.chain_id };
      return { claims, signature: await this.account.signTypedData({ domain, types: { [primaryType]: fields }, primaryType, message }), scheme: 'eip712' };
    }
    const bytes = encodeAbiParameters(fields, fields.map((f) => message[f.name]));
    const signature = await this.account.signMessage({ message: form === 'eip191' ? { raw: bytes } : bytes });
    return { claims, signature, scheme: 'eip191' };
  }

  // issue asks the core for a guarantee's certificate, as its recipient.
  issue(payload) {
    return this.authorized('POST', '/core/guarantees', payload);
  }

  // decode reads a certificate and compares its domain with the chain's: all that the original does.
  decode(certificate) {
    const [version, inner] = decodeAbiParameters([{ type: 'uint64' }, { type: 'bytes' }], withPrefix(certificate.claims));
    const components = version === 2n ? certificateV2 : certificateV1;
    const [c] = decodeAbiParameters([{ type: 'tuple', components }], inner);
    if (c.version !== version) throw new Error(`a certificate of version ${c.version} in an envelope of ${version}`);
    if (c.domain !== this.domains[Number(version)]) throw new Error(`a certificate of domain ${c.domain}`);
    return c;
  }

  // verify also does what it should: the core's signature, and every field.
  verify(certificate, claims) {
    const c = this.decode(certificate);
    const want = values(claims);
    for (const [name, value] of Object.entries({ ...want, client: want.user })) {
      if (name in c && String(c[name]).toLowerCase() !== String(value).toLowerCase()) throw new Error(`certificate: ${name} is ${c[name]}, want ${value}`);
    }
    const strip = (hex) => hex.replace(/^0x/, '');
    if (!bls12_381.verify(strip(certificate.signature), strip(certificate.claims), this.key)) throw new Error('certificate: wrong signature');
    return c;
  }

  proof(cycle, participant = this.address) {
    return this.authorized('GET', `/core/cycles/${cycle}/participants/${participant}/clearing-proof`);
  }

  action(cycle, action, participant = this.address) {
    return this.authorized('GET', `/core/cycles/${cycle}/participants/${participant}/clearing-action?action=${action}`);
  }

  // execute brings an action of the core to the chain.
  execute(a) {
    const args = [a.cycle_id, BigInt(a.amount), a.proof];
    if (a.debtor) args.splice(1, 0, a.debtor);
    return this.send({ address: a.contract_address, abi: clearingHouse, functionName: a.function_name, args, value: BigInt(a.payable_value), gas: 1_000_000n });
  }

  clearing(functionName, args, address) {
    return this.chain.readContract({ address, abi: clearingHouse, functionName, args });
  }

  // pay makes a request and pays what it costs: as version 1 from the body, or as version 2 from the header.
  async pay(url, version, init = {}) {
    const first = await fetch(url, init);
    if (first.status !== 402) return { response: first };
    const terms = version === 2 ? unwrap(first.headers.get('PAYMENT-REQUIRED')) : await first.json();
    const payment = await this.payment(terms, version);
    const header = version === 2 ? 'PAYMENT-SIGNATURE' : 'X-PAYMENT';
    const response = await fetch(url, { ...init, headers: { ...init.headers, [header]: payment.header } });
    const receipt = response.headers.get('X-PAYMENT-RESPONSE');
    return { ...payment, response, receipt: receipt ? unwrap(receipt) : undefined };
  }

  // payment answers terms.
  async payment(terms, version) {
    const accepted = terms.accepts.find((a) => a.scheme.includes('4mica'));
    if (!accepted) throw new Error(`no guarantee among ${terms.accepts.map((a) => a.scheme)}`);
    const endpoint = accepted.extra?.tabEndpoint;
    if (!endpoint) throw new Error('no tabEndpoint');
    const policy = policyOf(accepted.extra);
    const tab = await (await fetch(endpoint, {
      method: 'POST', headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ guaranteeVersion: policy ? 2 : 1, userAddress: this.address, paymentRequirements: accepted, resource: terms.resource }),
    })).json();
    if (tab.error) throw new Error(tab.error);
    if (tab.userAddress?.toLowerCase() !== this.address.toLowerCase()) throw new Error(`a tab of ${tab.userAddress}`);
    const reqId = BigInt(tab.nextReqId ?? tab.next_req_id ?? tab.reqId ?? tab.req_id ?? 0);
    const claims = this.claims({ recipient: accepted.payTo, asset: accepted.asset, amount: accepted.amount ?? accepted.maxAmountRequired, reqId, policy });
    const payload = await this.sign(claims);
    return { accepted, claims, payload, tab, header: wrap(envelope(terms, accepted, payload, version)) };
  }
}

// values gives the names of typed data to claims.
function values(claims) {
  const v = {
    user: getAddress(claims.user_address), recipient: getAddress(claims.recipient_address), reqId: BigInt(claims.req_id), amount: BigInt(claims.amount),
    asset: getAddress(claims.asset_address), timestamp: BigInt(claims.timestamp),
  };
  if (claims.version !== 'v2') return v;
  return {
    ...v, validationRegistryAddress: getAddress(claims.validation_registry_address), validationRequestHash: claims.validation_request_hash,
    validationChainId: BigInt(claims.validation_chain_id), validatorAddress: getAddress(claims.validator_address), validatorAgentId: BigInt(claims.validator_agent_id),
    minValidationScore: claims.min_validation_score, validationSubjectHash: claims.validation_subject_hash, jobHash: claims.job_hash,
    requiredValidationTag: claims.required_validation_tag,
  };
}

// policyOf returns the policy that terms ask for; undefined unless all of it but the tag is there.
function policyOf(extra) {
  const names = ['validationRegistryAddress', 'validationChainId', 'validatorAddress', 'validatorAgentId', 'minValidationScore', 'jobHash'];
  return names.every((n) => extra[n] !== undefined && extra[n] !== null) ? extra : undefined;
}

// envelope is what a payment header carries.
export function envelope(terms, accepted, payload, version) {
  if (version === 2) return { x402Version: 2, accepted, payload, resource: terms.resource };
  return { x402Version: 1, scheme: accepted.scheme, network: accepted.network, payload };
}

export const wrap = (value) => Buffer.from(JSON.stringify(value)).toString('base64');

export const unwrap = (header) => JSON.parse(Buffer.from(header, 'base64').toString('utf8'));

// cycleId is the bytes32 of a cycle's number in a certificate.
export const cycleId = (number) => toHex(number, { size: 32 });

// leafOf and fold are the tree as the protocol has it.
export function leafOf(chainId, house, cycle, asset, participant, amount, role) {
  return keccak256(encodeAbiParameters(
    [{ type: 'uint256' }, { type: 'address' }, { type: 'bytes32' }, { type: 'address' }, { type: 'address' }, { type: 'uint256' }, { type: 'uint256' }],
    [BigInt(chainId), house, cycle, asset, participant, BigInt(amount), BigInt(role)],
  ));
}

export function fold(leaf, proof) {
  return proof.reduce((node, sibling) => keccak256(concat(node.toLowerCase() < sibling.toLowerCase() ? [node, sibling] : [sibling, node])), leaf);
}

// What @x402/extensions says of the extensions in a seller's terms and receipt.
//
//   terms         decoded content of PAYMENT-REQUIRED
//   receipt       content of PAYMENT-RESPONSE as it was sent
//   payer         who paid
//   facilitator   whose list of resources to read; optional
import { HTTPFacilitatorClient } from '@x402/core/server';
import { validateDiscoveryExtension, validateDiscoveryExtensionSpec, withBazaar } from '@x402/extensions/bazaar';
import {
  decodeSignedOffers, extractOffersFromPaymentRequired, extractReceiptFromResponse, findAcceptsObjectFromSignedOffer, isEIP712SignedOffer,
  isJWSSignedReceipt, verifyOfferSignatureEIP712, verifyOfferSignatureJWS, verifyReceiptMatchesOffer, verifyReceiptSignatureEIP712, verifyReceiptSignatureJWS,
} from '@x402/extensions/offer-receipt';
import { options, say } from './common.mjs';

const result = {};
const { terms } = options;
const signed = extractOffersFromPaymentRequired(terms);
if (signed.length > 0) {
  result.offers = [];
  for (const offer of signed) {
    const found = findAcceptsObjectFromSignedOffer(offer, terms.accepts);
    const one = { format: offer.format, index: terms.accepts.indexOf(found) };
    if (isEIP712SignedOffer(offer)) one.signer = (await verifyOfferSignatureEIP712(offer)).signer;
    else one.payload = await verifyOfferSignatureJWS(offer);
    result.offers.push(one);
  }
}
if (options.receipt) {
  const receipt = extractReceiptFromResponse(new Response('', { headers: { 'PAYMENT-RESPONSE': options.receipt } }));
  if (receipt) {
    result.receipt = { format: receipt.format };
    if (isJWSSignedReceipt(receipt)) result.receipt.payload = await verifyReceiptSignatureJWS(receipt);
    else result.receipt.signer = (await verifyReceiptSignatureEIP712(receipt)).signer;
    const [offer] = decodeSignedOffers(signed);
    result.receipt.matches = verifyReceiptMatchesOffer(receipt, offer, [options.payer]);
  }
}
const bazaar = terms.extensions?.bazaar;
if (bazaar) result.bazaar = { consistent: validateDiscoveryExtension(bazaar), specified: validateDiscoveryExtensionSpec(bazaar) };
if (options.facilitator) {
  const client = withBazaar(new HTTPFacilitatorClient({ url: options.facilitator }));
  result.listed = (await client.extensions.bazaar.listResources({ type: 'http', limit: 100 })).items;
}
say(result);

"""The words that only the hosted page needs, in the languages of `billhook.documents.labels`."""

from __future__ import annotations

from typing import Final

import msgspec


class HostedWords(msgspec.Struct, frozen=True, kw_only=True):
    skip: str
    """To what the page is about, for who steps through it by keyboard."""
    seller: str
    facts: str
    """Names the list of number, dates and so on, for screen readers; so do `lines` and `totals`."""
    lines: str
    totals: str
    making: str
    failed: str
    gone: str
    gone_why: str


def words_in(language: str) -> HostedWords:
    """`language` is a BCP 47 tag; English where its words are not known."""
    return _LANGUAGES.get(language.partition("-")[0], _LANGUAGES["en"])


def negotiated(accepted: str) -> str:
    """The language to answer in, from an `Accept-Language` header."""
    wanted = (part.partition(";")[0].strip().lower().partition("-")[0] for part in accepted[:200].split(","))
    return next((language for language in wanted if language in _LANGUAGES), "en")


_LANGUAGES: Final[dict[str, HostedWords]] = {
    "en": HostedWords(
        skip="Skip to the document",
        seller="From",
        facts="Details",
        lines="What is charged",
        totals="Totals",
        making="The PDF is being made. Load this page again in a moment.",
        failed="There is no PDF of this at the moment.",
        gone="This link does not work",
        gone_why="It may have expired, or it was not copied in full. Please ask whoever sent it to you for a new one.",
    ),
    "de": HostedWords(
        skip="Zum Dokument springen",
        seller="Von",
        facts="Angaben",
        lines="Positionen",
        totals="Summen",
        making="Das PDF wird gerade erstellt. Laden Sie diese Seite in einem Augenblick neu.",
        failed="Zurzeit gibt es hiervon kein PDF.",
        gone="Dieser Link funktioniert nicht",
        gone_why="Vielleicht ist er abgelaufen, oder er wurde nicht vollständig kopiert. Bitten Sie den Absender um"
        " einen neuen.",
    ),
    "fr": HostedWords(
        skip="Aller au document",
        seller="De",
        facts="Détails",
        lines="Lignes",
        totals="Totaux",
        making="Le PDF est en cours de création. Rechargez cette page dans un instant.",
        failed="Il n’y a pas de PDF pour le moment.",
        gone="Ce lien ne fonctionne pas",
        gone_why="Il a peut-être expiré, ou n’a pas été copié en entier. Demandez-en un nouveau à son expéditeur.",
    ),
    "es": HostedWords(
        skip="Ir al documento",
        seller="De",
        facts="Datos",
        lines="Conceptos",
        totals="Totales",
        making="El PDF se está creando. Vuelva a cargar esta página en un momento.",
        failed="En este momento no hay un PDF.",
        gone="Este enlace no funciona",
        gone_why="Puede que haya caducado o que no se copiara entero. Pida uno nuevo a quien se lo envió.",
    ),
    "it": HostedWords(
        skip="Vai al documento",
        seller="Da",
        facts="Dettagli",
        lines="Voci",
        totals="Totali",
        making="Il PDF è in preparazione. Ricarichi questa pagina tra un momento.",
        failed="Al momento non c’è un PDF.",
        gone="Questo link non funziona",
        gone_why="Forse è scaduto o non è stato copiato per intero. Ne chieda uno nuovo a chi lo ha inviato.",
    ),
    "nl": HostedWords(
        skip="Naar het document",
        seller="Van",
        facts="Gegevens",
        lines="Regels",
        totals="Totalen",
        making="De pdf wordt gemaakt. Laad deze pagina zo dadelijk opnieuw.",
        failed="Er is op dit moment geen pdf.",
        gone="Deze link werkt niet",
        gone_why="Misschien is hij verlopen of niet volledig gekopieerd. Vraag de afzender om een nieuwe.",
    ),
    "pt": HostedWords(
        skip="Ir para o documento",
        seller="De",
        facts="Dados",
        lines="Itens",
        totals="Totais",
        making="O PDF está sendo criado. Recarregue esta página daqui a pouco.",
        failed="No momento não há um PDF.",
        gone="Este link não funciona",
        gone_why="Talvez tenha expirado ou não tenha sido copiado por inteiro. Peça um novo a quem o enviou.",
    ),
    "ja": HostedWords(
        skip="本文へ移動",
        seller="発行者",
        facts="詳細",
        lines="明細",
        totals="合計",
        making="PDF を作成しています。しばらくしてからページを再読み込みしてください。",
        failed="現在、PDF はありません。",
        gone="このリンクは使えません",
        gone_why="有効期限が切れているか、リンクが最後までコピーされていない可能性があります。送信者に新しいリンクをお求めください。",
    ),
    "ar": HostedWords(
        skip="انتقل إلى المستند",
        seller="من",
        facts="التفاصيل",
        lines="البنود",
        totals="المجاميع",
        making="يجري إعداد ملف PDF. أعد تحميل هذه الصفحة بعد قليل.",
        failed="لا يوجد ملف PDF حاليًا.",
        gone="هذا الرابط لا يعمل",
        gone_why="ربما انتهت صلاحيته أو لم يُنسخ كاملًا. اطلب رابطًا جديدًا ممن أرسله إليك.",
    ),
}

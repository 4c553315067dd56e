"""How many half memories `vkteamsctl find` answers among its first three hits, over the demonstration's chats.

    python -m bench.half_memories [--config .demo/vkteamsd.toml] [--first 3]

`make demo` makes the archive, with the default models. A half memory is what somebody still knows of a message months
later, in other words than those of the message; each message that holds one of the texts beside it answers it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from vkteams_daemon import config
from vkteams_daemon.search.archive import Archive

WANTED = 0.85
HALF_MEMORIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("кто забыл выключить отладочный лог",
     ("Это был я. Проверял подпись", "forgot the DKIM milter", "Отладочный журнал за ночь")),
    ("почему утром не уходила почта", ("Отладочный журнал за ночь", "Почему стояла почта", "log partition filled up")),
    ("сколько писем застряло в очереди", ("1,412 of them", "mailq 1412", "1412 → 380")),
    ("когда сдавать квартальный отчёт", ("квартальный отчёт сдаём",)),
    ("отчёт отправили вовремя, номер квитанции", ("Отчёт отправлен в 17:58",)),
    ("Катя потеряла пропуск", ("я потеряла пропуск",)),
    ("сколько стоит новый пропуск", ("три дня и 500 рублей",)),
    ("ремонт кофемашины или новая", ("насос дышит на ладан",)),
    ("за сколько окупится кофемашина", ("окупается за полторы недели",)),
    ("голосование куда едем командой", ("Голосование",)),
    ("во сколько сбор на хинкали", ("Сбор 18:00",)),
    ("сколько человек едет на мастер-класс", ("едут 12 человек", "12 человек")),
    ("новичок просил доступ к графане", ("доступ на чтение к stage-3",)),
    ("истёк сертификат vpn", ("сертификат истёк", "certificate lapsed", "VERIFY ERROR")),
    ("хронология аварии с сертификатом", ("Хронология для вики",)),
    ("чтобы сертификаты продлевались сами", ("автопродление через ACME", "продлеваются сами")),
    ("когда переезжаем на новый кластер базы", ("Переезжаем на кластер",)),
    ("how long was the database down during the move",
     ("Простой 34 минуты", "Thirty-four minutes", "Forty minutes if")),
    ("почему после переезда тормозят отчёты",
     ("После восстановления статистики нет", "thirty times longer", "отчёты ползут")),
    ("what did the angry customer want from us", ("he wants (1) a person",)),
    ("apology letter to Mr Hargreaves", ("The letter, final text",)),
    ("did the customer accept our offer", ("accepted, all three points",)),
    ("how much money for the broken tiles", ("GBP 8,240",)),
    ("у стажёра последний день, торт", ("последний день стажировки",)),
    ("представили нового бэкендера", ("наш новый бэкенд-разработчик",)),
    ("во сколько собеседование", ("собеседование с Глебом",)),
    ("решили взять Глеба", ("Согласен, берём",)),
    ("почему откатили релиз", ("не закрывает соединения", "откатил на 4.17.3")),
    ("remaining connection slots", ("connection slots are reserved",)),
    ("принтер сломался насовсем", ("Принтер попрощался",)),
    ("кто оставил открытое окно в переговорке", ("оставил окно в переговорке",)),
    ("Nora's flight from Leeds", ("Flight from Leeds",)),
    ("капает кондиционер", ("Кондиционер над бухгалтерией",)),
    ("за сколько подавать заявление на отпуск", ("Отпуска с нового года",)),
    ("когда будет премия", ("С премией — в пятницу", "Премию обсудим")),
    ("поставить новый диск в бэкап сервер", ("spare drive into backup-01", "два по 8 ТБ")),
    ("старый сервер базы выключен", ("db1 выключен",)),
    ("Миша заболел, температура", ("всю ночь знобило", "fever, sore throat")),
    ("странное устройство в сети на кухне", ("новое устройство в сети",)),
    ("who is on call until the end of the month", ("Дежурные до конца месяца",)),
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask them all; 0 if the share of those that are answered is high enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=".demo/vkteamsd.toml", help="configuration of the archive")
    parser.add_argument("--first", type=int, default=3, help="hits among which the answer must be")
    options = parser.parse_args(arguments)
    answered = 0
    with Archive(config.load(options.config)) as archive:
        for memory, texts in HALF_MEMORIES:
            hits = archive.search(memory, limit=10).hits
            place = next((n for n, hit in enumerate(hits, 1) if any(text in hit.text for text in texts)), None)
            answered += place is not None and place <= options.first
            print(f"{place or '-':>3}  {memory}")
    share = answered / len(HALF_MEMORIES)
    print(f"{answered} of {len(HALF_MEMORIES)} among the first {options.first}: {share:.2f}")
    return 0 if share >= WANTED else 1


if __name__ == "__main__":
    raise SystemExit(main())

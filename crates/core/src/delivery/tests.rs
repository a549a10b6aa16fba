use std::sync::Mutex;

use serde_json::json;

use super::*;
use crate::record::Batch;

#[derive(Default)]
struct Book(Mutex<Vec<(u64, Outcome)>>, Mutex<Vec<Settled>>);

impl Settle for Book {
    fn settled(&self, ended: Vec<Settled>) {
        let words = ended.iter().map(|one| (one.token.id, one.outcome));
        self.0.lock().unwrap().extend(words);
        self.1.lock().unwrap().extend(ended);
    }
}

fn start(ids: &[u64]) -> (Parcel, Arc<Book>) {
    let book = Arc::new(Book::default());
    let deliveries = ids
        .iter()
        .map(|id| (Token { epoch: 1, id: *id }, vec![json!(id)]))
        .collect();
    let settle: Arc<dyn Settle> = book.clone();
    (Parcel::start(deliveries, &settle), book)
}

#[track_caller]
fn check(book: &Book, expected: &[(u64, Outcome)]) {
    assert_eq!(*book.0.lock().unwrap(), expected);
}

#[test]
fn a_delivery_is_settled_when_its_last_share_closes_with_the_worst_outcome() {
    let (parcel, book) = start(&[7]);
    let hold = parcel.lineage.hold();
    hold.mark(
        &parcel.batch.records()[0],
        Outcome::DeadLettered,
        &"bad".into(),
    );
    parcel.lineage.close(Outcome::Committed);
    check(&book, &[]);
    hold.close(Outcome::Committed);
    check(&book, &[(7, Outcome::DeadLettered)]);
}

#[test]
fn dropping_a_parcel_means_lost() {
    let (parcel, book) = start(&[1, 2]);
    drop(parcel);
    check(&book, &[(1, Outcome::Lost), (2, Outcome::Lost)]);
}

#[test]
fn a_child_holds_only_the_deliveries_of_its_records() {
    let (parcel, book) = start(&[1, 2, 3]);
    let mut batch = Batch::new(vec![parcel.batch.records()[2].with_value(json!("x"))]);
    let child = parcel.lineage.child(&mut batch);
    assert_eq!(
        child.tokens().map(|token| token.id).collect::<Vec<_>>(),
        [3]
    );
    parcel.lineage.close(Outcome::Committed);
    check(&book, &[(1, Outcome::Committed), (2, Outcome::Committed)]);
    child.close(Outcome::Failed);
    assert_eq!(book.0.lock().unwrap()[2], (3, Outcome::Failed));
}

#[test]
fn joined_and_split_parcels_keep_who_is_whose() {
    let (mut parcel, book) = start(&[1, 2]);
    let (other, other_book) = start(&[9]);
    parcel.join(other);
    let mut parcels = parcel.split_by_delivery();
    assert_eq!(parcels.len(), 3);
    assert_eq!(parcels[2].batch.records()[0].value(), &json!(9));
    parcels.pop().unwrap().lineage.close(Outcome::Failed);
    check(&other_book, &[(9, Outcome::Failed)]);
    parcels
        .into_iter()
        .for_each(|parcel| parcel.lineage.close(Outcome::Committed));
    check(&book, &[(1, Outcome::Committed), (2, Outcome::Committed)]);
}

#[test]
fn a_record_that_is_taken_out_marks_its_own_delivery_only() {
    let (mut parcel, book) = start(&[1, 2]);
    assert!(
        parcel
            .take_out(1, Outcome::DeadLettered, &"bad".into())
            .is_some()
    );
    parcel.lineage.close(Outcome::Committed);
    check(
        &book,
        &[(1, Outcome::Committed), (2, Outcome::DeadLettered)],
    );
}

#[test]
fn a_delivery_says_why_it_did_not_go_well_in_the_first_words_that_were_said() {
    let (mut parcel, book) = start(&[1, 2]);
    drop(parcel.take_out(1, Outcome::DeadLettered, &"bad".into()));
    parcel.lineage.explain(&"worse".into());
    parcel.lineage.close(Outcome::Failed);
    let settled = book.1.lock().unwrap();
    let reasons: Vec<_> = settled.iter().map(|end| end.reason.as_deref()).collect();
    assert_eq!(reasons, [Some("worse"), Some("bad")]);
}

#[test]
fn records_are_counted_for_the_delivery_that_they_belong_to() {
    let (mut parcel, book) = start(&[1, 2]);
    parcel.lineage.count(&parcel.batch, Way::In);
    drop(parcel.take_out(0, Outcome::Skipped, &"old".into()));
    parcel.lineage.count(&parcel.batch, Way::Out);
    parcel.lineage.close(Outcome::Committed);
    let settled = book.1.lock().unwrap();
    let tallies: Vec<_> = settled
        .iter()
        .map(|end| (end.tally.records_in, end.tally.records_out))
        .collect();
    assert_eq!(tallies, [(1, 0), (1, 1)]);
}

#[test]
fn there_is_one_receipt_for_each_sink_however_often_batches_were_joined() {
    let (mut parcel, _book) = start(&[1]);
    for _ in 0..3 {
        let (mut other, _book) = start(&[2]);
        let receipt = CommitReceipt::issue("table".into(), 1);
        other.lineage.add_receipt(receipt);
        parcel.join(other);
    }
    assert_eq!(parcel.lineage.receipts(), 1);
}

#[test]
fn splitting_by_record_settles_a_delivery_once() {
    let book = Arc::new(Book::default());
    let settle: Arc<dyn Settle> = book.clone();
    let values = vec![json!(1), json!(2), json!(3)];
    let parcel = Parcel::start(vec![(Token { epoch: 0, id: 5 }, values)], &settle);
    let parcels = parcel.split_by_record();
    assert_eq!(parcels.len(), 3);
    for parcel in parcels {
        check(&book, &[]);
        parcel.lineage.close(Outcome::Skipped);
    }
    check(&book, &[(5, Outcome::Skipped)]);
}
